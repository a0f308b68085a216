"""One run on several devices: by the command itself, and in the processes of torchrun."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from clipwise.cli import main
from clipwise.errors import ConfigError
from clipwise.lab.config.lab_config import load_config, parse_config
from clipwise.lab.recording import record_of
from clipwise.lab.training.checkpoint import load_checkpoint
from clipwise.lab.training.interrupt import Interrupt
from clipwise.lab.training.launched import Launched, launched, on_all_devices
from clipwise.monitor import Store
from tests.depth import thorough

gloo = pytest.mark.skipif(
    not (dist.is_available() and dist.is_gloo_available()), reason="torch was built without gloo"
)
STEPS = 12
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
CLI = ("-m", "clipwise")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a text and the configuration of a tiny model."""
    monkeypatch.chdir(tmp_path)
    words = random.Random(0).choices(["to", "be", "or", "not", "that", "is", "the", "question"], k=1500)
    (tmp_path / "t.txt").write_text(" ".join(words))
    return write(tmp_path)


def write(folder: Path, model: str = "LSTM", **training: Any) -> Path:
    config = {
        "model_type": model,
        "task": "Language_Modeling",
        "model_parameters": {"hidden_size": 12, "embedding_size": 6, "layers": 2},
        "data": {"path": "t.txt"},
        "training_parameters": {
            "optimizer": "SGD",
            "learning_rate": 1.0,
            "momentum": 0.5,
            "steps": STEPS,
            "batch_size": 8,
            "sequence_length": 12,
            "accumulate": 2,
            "gradient_clipping": "clip_by_global_norm(0.2)",
            **training,
        },
        "device": "cpu",
    }
    (folder / "c.json").write_text(json.dumps(config))
    return folder


def command(*words: str, **options: Any) -> subprocess.Popen[str]:
    quiet = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.Popen(
        [sys.executable, *words],
        env=os.environ | quiet,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A background job of a shell starts with SIGINT ignored, and hands that on.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
        **options,
    )


def done(process: "subprocess.Popen[str]") -> tuple[str, str]:
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err[-4000:]
    return out, err


def assert_the_run_of_one_process(folder: Path, name: str) -> None:
    """The recording `name`.db and the weights in the folder `name` are those of a run in this process."""
    assert main(["train", "c.json", "--out", "alone", "--db", "alone.db"]) == 0
    records = []
    for file in (f"{name}.db", "alone.db"):
        with Store(folder / file) as store:
            (found,) = store.runs()
            assert (found.status, found.steps, found.ranks) == ("finished", STEPS, (0,))
            records.append(record_of(store, found))
    several, alone = records
    assert 0 < sum(alone.steps["clip_fraction"]) < STEPS
    # Means of means over the processes: another order of the same sum.
    for column, tolerance in {"loss": 1e-5, "norm": 1e-4, "threshold": 0, "clip_fraction": 0}.items():
        assert several.steps[column] == pytest.approx(alone.steps[column], rel=tolerance)
    assert several.final == pytest.approx(alone.final, rel=1e-5)
    weights, expected = (load_checkpoint(folder / each / "model.pt") for each in (name, "alone"))
    assert (weights.step, weights.clipper["steps"]) == (STEPS, STEPS)
    torch.testing.assert_close(weights.model.state_dict(), expected.model.state_dict(), rtol=1e-5, atol=1e-5)


@thorough
@gloo
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
@pytest.mark.parametrize("model", ["LSTM", "Transformer"])
def test_devices_of_the_command(folder: Path, strategy: str, model: str) -> None:
    write(
        folder,
        model,
        **(
            {"learning_rate": 0.1, "gradient_clipping": "clip_by_global_norm(0.65)"}
            if model == "Transformer"
            else {}
        ),
    )
    words = ["train", "c.json", "--devices", "2", "--strategy", strategy, "--out", "two", "--db", "two.db"]
    done(command(*CLI, *words))
    assert_the_run_of_one_process(folder, "two")


@thorough
@gloo
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_torchrun(folder: Path, strategy: str) -> None:
    words = ["train", "c.json", "--strategy", strategy, "--out", "two", "--db", "two.db"]
    out, err = done(command(*TORCHRUN, *CLI, *words))
    assert out.count("weights") == 1
    assert err.count("data: ") == err.count("recording: ") == 1
    assert "--devices 2" in out  # of the command to try next, which has no torchrun
    assert_the_run_of_one_process(folder, "two")


@thorough
@gloo
def test_torchrun_goes_on(folder: Path) -> None:
    """The second call takes the two finished runs, the same ones in both processes, and trains a third."""
    words = ["compare", "c.json", "--strategy", "fsdp", "--no-auto"]
    done(command(*TORCHRUN, *CLI, *words))
    _, err = done(command(*TORCHRUN, *CLI, *words, "--clip", "clip_by_norm(0.1)", "--resume"))
    assert "2 of 3 runs are in clipwise.db already" in err
    with Store(folder / "clipwise.db") as store:
        assert [run.status for run in store.runs()] == ["finished"] * 3


@thorough
@gloo
def test_ctrl_c_reaches_all_processes_of_torchrun(folder: Path) -> None:
    """As a terminal sends it, to all of them; torchrun then sends it once more."""
    write(folder, steps=1_000_000, evaluate_every=500_000)
    process = command(*TORCHRUN, *CLI, "train", "c.json", "--strategy", "fsdp")
    while process.poll() is None and not steps_in(folder / "clipwise.db"):
        time.sleep(0.2)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert "Interrupted: 1 of 1 run (the last one " in err, err
    checkpoint = load_checkpoint(folder / "clipwise-results" / "c-train" / "model.pt")
    with Store(folder / "clipwise.db") as store:
        (found,) = store.runs()
        assert (found.status, found.steps) == ("stopped", checkpoint.step)


def steps_in(recording: Path) -> int:
    """How many steps the newest run of a recording has so far."""
    if not recording.exists() or not recording.stat().st_size:
        return 0
    with Store(recording) as store:
        return max((run.steps for run in store.runs()), default=0)


# What torchrun says to its processes, without it.


def torchrun(monkeypatch: pytest.MonkeyPatch, **said: int) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    for name, value in said.items():
        monkeypatch.setenv(name, str(value))


def test_who_is_told_what(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = load_config(folder / "c.json")
    assert launched() is None
    assert on_all_devices(config) is config
    torchrun(monkeypatch, RANK=3, WORLD_SIZE=4, LOCAL_WORLD_SIZE=2)
    assert launched() == Launched(rank=3, size=4, nodes=2)
    assert on_all_devices(config).devices == 4
    assert on_all_devices(config.override(devices=4)).devices == 4
    torchrun(monkeypatch, RANK=0, WORLD_SIZE=1, LOCAL_WORLD_SIZE=1)
    assert launched() is None


@pytest.mark.parametrize("devices", ["1", "3"])
def test_another_number_of_devices_than_processes(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], devices: str
) -> None:
    torchrun(monkeypatch, RANK=0, WORLD_SIZE=2, LOCAL_WORLD_SIZE=2)
    write(folder, batch_size=12)
    assert main(["train", "c.json", "--devices", devices]) == 2
    said = f"devices: torchrun started 2 processes, one for each device, got {devices}; leave it out"
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(("given", "message"), [
    ({"strategy": "zero"}, "strategy: must be one of 'ddp' or 'fsdp'"),
    ({"strategy": "fsdp", "precision": "16"}, "precision: '16' is not for strategy 'fsdp'; use"),
])  # fmt: skip
def test_what_parts_of_a_model_are_not_for(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        parse_config({"model_type": "GRU", "task": "Language_Modeling"} | given)


def test_a_second_ctrl_c_may_mean_nothing() -> None:
    with Interrupt(insists=False) as interrupt:
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGINT)
    assert interrupt.asked
