"""The command line as people meet it: what works, and every mistake in one sentence."""

import csv
import json
import math
import os
import re
import signal
import subprocess
import sys
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from rich.progress import Progress

from clipwise.cli import main
from clipwise.cli.display import Bars
from clipwise.errors import NonFiniteError
from clipwise.lab.compare.runs import Job
from clipwise.lab.report import results
from clipwise.monitor import Store
from tests.lab.records import record

NAN, INF = math.nan, math.inf
FILES = {"comparison.csv", "comparison.html", "comparison.json", "comparison.png"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder with a text of its own and a configuration that trains in a moment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CLIPWISE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "text.txt").write_text("the quick brown fox jumps over the lazy dog. " * 200)
    write(tmp_path)
    return tmp_path


def write(folder: Path, **changes: Any) -> None:
    """``tiny.json``; keys with two underscores reach into a section."""
    config: dict[str, Any] = {
        "model_type": "RNN",
        "task": "Language_Modeling",
        "model_parameters": {"hidden_size": 8, "embedding_size": 4},
        "data": {"path": "text.txt"},
        "training_parameters": {
            "optimizer": "SGD",
            "learning_rate": 0.5,
            "steps": 6,
            "batch_size": 4,
            "sequence_length": 16,
            "gradient_clipping": {"method": "clip_by_global_norm", "threshold": 0.1},
        },
        "device": "cpu",
    }
    for key, value in changes.items():
        section, _, name = key.rpartition("__")
        (config[section] if section else config)[name] = value
    (folder / "tiny.json").write_text(json.dumps(config))


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_compare_runs_and_says_what_happened(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "tiny.json", "--clip", "clip_by_value(1e9)", "--seeds", "2"]) == 0
    out, err = capsys.readouterr()
    place = folder / "clipwise-results" / "tiny"
    assert names(place) == FILES
    assert names(place.parent) == {"tiny"}
    rows = list(csv.DictReader((place / "comparison.csv").open()))
    assert [(r["label"], r["seed"], r["steps"]) for r in rows] == [
        (label, str(seed), "6")
        for label in ("no clipping", "clip_by_global_norm(0.1)", "clip_by_value(1000000000.0)", "auto")
        for seed in (0, 1)
    ]
    assert "clip_by_value(1000000000.0) never clipped" in " ".join(out.split())
    assert "it is the same run as without clipping" in " ".join(out.split())  # wherever a line ends
    for name in ("png", "html"):
        assert f"clipwise-results/tiny/comparison.{name}" in out
    assert "try next" in out
    assert len([line for line in err.splitlines() if line.startswith("[")]) == 8  # one plain line a run
    assert "\x1b" not in out + err


def test_a_bar_shows_loss_norm_threshold_and_how_often_it_clips() -> None:
    progress = Progress()
    bars = Bars(progress, seeds=True)
    update = bars.begin(Job("zclip", "given", None, 3), 1, 2)
    (task,) = progress.tasks
    assert task.fields == {"name": "1/2 zclip, seed 3", "figures": "preparing"}
    for fraction in (1.0, 0.0):
        update(5, 10, {"loss": 1.5, "norm": 2.0, "threshold": 0.1, "clip_fraction": fraction})
    assert (task.completed, task.total) == (5, 10)
    assert task.fields["figures"] == "loss 1.5  norm 2  threshold 0.1  clipped 50 %"
    update(6, 10, {"loss": NAN, "norm": NAN, "threshold": INF, "clip_fraction": 0.0})
    assert task.fields["figures"] == "loss NaN  norm NaN"  # without clipping there is no threshold to show
    bars.end(record(label="zclip", held_out=[2.0]))
    assert task.fields["figures"] == "2 bits"
    assert task.finished


@pytest.mark.parametrize("colour", [True, False])
def test_bars_on_a_terminal(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], colour: bool
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # what rich takes for a terminal
    monkeypatch.setenv("COLUMNS", "140")
    if not colour:
        monkeypatch.setenv("NO_COLOR", "1")
    assert main(["compare", "tiny.json", "--no-auto"]) == 0
    out, err = capsys.readouterr()
    assert "1/2 no clipping" in err
    assert "2/2 clip_by_global_norm(0.1)" in err
    assert "6/6" in err
    coloured = re.search(r"\x1b\[[0-9;]*3[0-9]", out + err) is not None
    assert coloured == colour


def test_the_command_on_the_page_reproduces_the_numbers(folder: Path) -> None:
    assert main(["compare", "tiny.json", "--steps", "4", "--seed", "3", "--no-auto", "--out", "one"]) == 0
    command = json.loads((folder / "one" / "comparison.json").read_text())["command"]
    assert command == "clipwise compare tiny.json --no-auto --seed 3 --steps 4"
    assert main([*command.split()[1:], "--out", "two"]) == 0
    one, two = (results.load(folder / name / "comparison.json") for name in ("one", "two"))
    assert [r.seed for r in one] == [3, 3]
    assert [r.steps for r in one] == [r.steps for r in two]
    assert [len(r.steps["loss"]) for r in one] == [4, 4]


def test_train_saves_weights_and_steps(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "tiny.json"]) == 0
    place = folder / "clipwise-results" / "tiny-train"
    assert names(place) == {
        "training.csv",
        "training.html",
        "training.json",
        "training.png",
        "steps.csv",
        "model.pt",
    }
    assert len((place / "steps.csv").read_text().splitlines()) == 7
    assert "clip_by_global_norm(0.1)" in capsys.readouterr().out
    before = (place / "model.pt").read_bytes()
    assert main(["train", "tiny.json"]) == 2
    assert "model.pt' already exists: name another folder with --out" in capsys.readouterr().err
    assert (place / "model.pt").read_bytes() == before
    assert main(["train", "tiny.json", "--seed", "7", "--force"]) == 0
    assert (place / "model.pt").read_bytes() != before


@pytest.mark.parametrize(("clip", "label"), [("auto", "auto"), ("none", "no clipping")])
def test_train_with_another_clip(folder: Path, clip: str, label: str) -> None:
    assert main(["train", "tiny.json", "--clip", clip, "--out", "o"]) == 0
    assert [r.label for r in results.load(folder / "o" / "training.json")] == [label]


def test_target_and_baseline_options(folder: Path) -> None:
    assert main(["compare", "tiny.json", "--target", "99", "--no-baseline", "--no-auto", "--out", "o"]) == 0
    (row,) = csv.DictReader((folder / "o" / "comparison.csv").open())
    assert (row["role"], row["target"]) == ("configured", "99.0")
    assert int(row["steps_to_target"]) <= 6


def test_open_shows_the_page(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    monkeypatch.setattr("webbrowser.open", seen.append)
    assert main(["compare", "tiny.json", "--no-auto", "--open"]) == 0
    assert seen == [(folder / "clipwise-results" / "tiny" / "comparison.html").as_uri()]


def _bad_json(folder: Path) -> None:
    (folder / "tiny.json").write_text('{"model_type": "RNN",,}')


def _missing(folder: Path) -> None:
    (folder / "tiny.json").unlink()


def _short_text(folder: Path) -> None:
    (folder / "text.txt").write_text("ten chars.")


def _column(folder: Path) -> None:
    (folder / "x.csv").write_text("time,value\n" + "\n".join(f"{i},{i % 7}" for i in range(200)))
    write(folder, task="Time_Series_Forecasting", data={"path": "x.csv", "value_column": "valeu"})


def _threshold(folder: Path) -> None:
    write(folder, training_parameters__gradient_clipping={"method": "clip_by_norm", "threshold": -1})


def _contradiction(folder: Path) -> None:
    write(folder, training_parameters__epochs=2)


def _unknown_key(folder: Path) -> None:
    write(folder, training_parameters__lerning_rate=2)


@pytest.mark.parametrize("command", ["train", "compare"])
@pytest.mark.parametrize(
    ("spoil", "options", "words"),
    [
        (_missing, [], ["tiny.json"]),
        (_bad_json, [], ["tiny.json", "line 1"]),
        (_short_text, [], ["text.txt", "10"]),
        (_column, [], ["valeu", "value"]),
        (_threshold, [], ["training_parameters.gradient_clipping.threshold", "at least 0", "-1"]),
        (_contradiction, [], ["epochs", "steps", "contradict"]),
        (_unknown_key, [], ["lerning_rate", "learning_rate"]),
        (None, ["--clip", "clip_by_norm(-1)"], ["--clip", "at least 0", "-1"]),
        (None, ["--clip", "__import__('os')"], ["--clip", "__import__"]),
        (None, ["--steps", "0"], ["steps", "at least 1", "0"]),
        (None, ["--precision", "8"], ["precision", "'8'"]),
        (None, ["--device", "tpu"], ["device", "'tpu'"]),
        (None, ["--seed", "-1"], ["seed", "-1"]),
        (None, ["--out", "text.txt"], ["--out", "text.txt is a file"]),
    ],
)  # fmt: skip
def test_a_mistake_is_one_sentence_and_touches_nothing(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    command: str,
    spoil: Any,
    options: list[str],
    words: list[str],
) -> None:
    earlier = folder / "clipwise-results" / ("tiny" if command == "compare" else "tiny-train")
    results.save(earlier, {"comparison.json": "earlier"})
    if spoil is not None:
        spoil(folder)
    assert main([command, "tiny.json", *options]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("Error: ")
    assert err.count("\n") == 1
    for word in words:
        assert word in err
    assert contents(earlier) == {"comparison.json": b"earlier"}
    assert names(earlier.parent) == {earlier.name}


def test_a_mistake_is_said_before_torch_is_loaded(folder: Path) -> None:
    write(folder, training_parameters__lerning_rate=2)
    (folder / "good.json").write_text('{"model_type": "LSTM"}')
    lines = (
        "train tiny.json|compare tiny.json|train good.json --precision 17|compare good.json --clip nope(1)|"
    )
    lines += "suggest|export --to csv|runs|report|observe --clip nope(1) -- true"
    words = [line.split() for line in lines.split("|")]
    code = (
        f"import sys; from clipwise.cli import main; codes = [main(each) for each in {words}]\n"
        "print(codes, {'torch', 'lightning_fabric', 'matplotlib', 'polars', 'sklearn'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == f"{[2] * len(words)} set()\n", done.stderr
    assert "lerning_rate: unknown key" in done.stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["compare"], "Missing argument 'CONFIG'"),
        (["compare", "tiny.json", "--sed", "1"], "No such option"),
        (["compare", "tiny.json", "--seeds", "0"], "--seeds"),
        (["compare", "tiny.json", "--target", "nan"], "--target must be a finite number, got nan"),
        (["compare", "tiny.json", "--no-baseline", "--no-auto"], ""),
        (["fly"], "No such command 'fly'"),
    ],
)  # fmt: skip
def test_misused_options(
    folder: Path, capsys: pytest.CaptureFixture[str], options: list[str], words: str
) -> None:
    write(folder, training_parameters__gradient_clipping=None)
    assert main(options) == 2
    assert words in capsys.readouterr().err


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What each call of ``train`` does next: a record to return, or something to raise."""
    todo: list[Any] = []

    def train(config: object, clip: object, *, label: str, role: str, seed: int, **_: object) -> Any:
        act = todo.pop(0)
        if isinstance(act, BaseException):
            raise act
        return record(label=label, role=role, seed=seed, **act)

    monkeypatch.setattr("clipwise.lab.training.train.train", train)
    return todo


DONE = {"held_out": [2.0]}
STOPPED = {"loss": [3.0, 2.0], "interrupted": True}


@pytest.mark.parametrize("second", [STOPPED, KeyboardInterrupt()], ids=["in a run", "between runs"])
def test_ctrl_c_saves_what_was_trained_beside_earlier_results(
    folder: Path, trained: list[Any], capsys: pytest.CaptureFixture[str], second: Any
) -> None:
    earlier = folder / "clipwise-results" / "tiny"
    results.save(earlier, {"comparison.json": "earlier"})
    trained += [DONE, second]
    assert main(["compare", "tiny.json"]) == 130
    assert contents(earlier) == {"comparison.json": b"earlier"}
    beside = folder / "clipwise-results" / "tiny-interrupted"
    assert names(beside) == FILES
    saved = results.load(beside / "comparison.json")
    assert [r.interrupted for r in saved] == [False, True][: len(saved)]
    assert len(saved) == (2 if second is STOPPED else 1)
    err = capsys.readouterr().err
    assert f"Interrupted: {len(saved)} of 3 runs" in err
    assert "clipwise-results/tiny-interrupted" in err


def test_ctrl_c_without_earlier_results_saves_in_the_usual_place(folder: Path, trained: list[Any]) -> None:
    trained += [DONE, STOPPED]
    assert main(["compare", "tiny.json"]) == 130
    assert names(folder / "clipwise-results") == {"tiny"}


@pytest.mark.parametrize("first", [{"loss": [], "interrupted": True}, KeyboardInterrupt()])
def test_ctrl_c_before_the_first_step_writes_nothing(
    folder: Path, trained: list[Any], capsys: pytest.CaptureFixture[str], first: Any
) -> None:
    trained.append(first)
    assert main(["compare", "tiny.json"]) == 130
    assert capsys.readouterr().err.endswith("Interrupted before the first step; nothing was written.\n")
    assert "clipwise-results" not in names(folder)


def test_an_error_in_a_later_run_keeps_the_runs_before_it(
    folder: Path, trained: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    results.save(folder / "clipwise-results" / "tiny", {"comparison.json": "earlier"})
    trained += [DONE, NonFiniteError("gradient of rnn.weight is NaN at step 3")]
    assert main(["compare", "tiny.json"]) == 2
    err = capsys.readouterr().err
    assert "Error: gradient of rnn.weight is NaN at step 3" in err
    assert "clipwise-results/tiny-interrupted" in err
    assert contents(folder / "clipwise-results" / "tiny") == {"comparison.json": b"earlier"}


def test_the_unforeseen_keeps_its_traceback(folder: Path, trained: list[Any]) -> None:
    trained.append(ZeroDivisionError("a bug"))
    with pytest.raises(ZeroDivisionError, match="a bug"):
        main(["compare", "tiny.json"])


def test_results_that_cannot_be_written_are_a_sentence(
    folder: Path, trained: list[Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trained.append(DONE)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    assert main(["train", "tiny.json"]) == 2
    assert "cannot write results to clipwise-results/tiny-train: No space left" in capsys.readouterr().err


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "clipwise", *words]


def test_sigint_to_a_real_process(folder: Path) -> None:
    """From the outside, as a shell sends it: earlier results stay, the new ones are beside them, code 130."""
    earlier = folder / "clipwise-results" / "tiny"
    results.save(earlier, {"comparison.json": "earlier"})
    process = subprocess.Popen(
        command("compare", "tiny.json", "--seeds", "1000"),
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        # A shell's job in the background ignores it, and so would what that starts.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stderr is not None
    data, recording = process.stderr.readline(), process.stderr.readline()
    first = process.stderr.readline()  # printed when the first of 3,000 runs has ended
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert data.startswith("data: text.txt: ")
    assert recording == "recording: clipwise.db (clipwise dashboard shows it live)\n"
    assert first.startswith("[1/3000] no clipping, seed 0: ")
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert "Interrupted: " in err
    assert err.splitlines()[-1] == "To continue: clipwise compare tiny.json --seeds 1000 --resume"
    assert contents(earlier) == {"comparison.json": b"earlier"}
    assert names(folder / "clipwise-results" / "tiny-interrupted") == FILES
    with Store(folder / "clipwise.db") as store:
        newest, *before = [run.status for run in store.runs()]
    assert newest in ("stopped", "finished")
    assert set(before) <= {"finished"}
    assert "no clipping" in out
    assert out.splitlines()[-1].split(maxsplit=2)[2] == "clipwise compare tiny.json --seeds 1000 --resume"


def test_a_reader_that_goes_away_gets_no_traceback(folder: Path) -> None:
    process = subprocess.Popen(
        command("schema"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, pipesize=4096, bufsize=0
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == b""
    process.wait(timeout=60)


def test_version_and_schema(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert metadata.version("clipwise") in capsys.readouterr().out
    assert main(["schema"]) == 0
    assert json.loads(capsys.readouterr().out)["$schema"].startswith("https://json-schema.org/")


@pytest.mark.parametrize("words", [["--help"], ["compare", "--help"], ["train", "--help"], ["--version"]])
def test_help_imports_nothing_heavy(words: list[str]) -> None:
    code = (
        "import sys; from clipwise.cli import main; code = main(sys.argv[1:]);"
        "heavy = {'torch', 'matplotlib', 'polars', 'pydantic', 'sklearn', 'rich', 'yaml', 'duckdb',"
        " 'narwhals', 'starlette', 'sqlite3', 'asyncio', 'http', 'ssl'} & set(sys.modules);"
        "heavy |= {'email'} & set(sys.modules) if '--help' in sys.argv else set();"  # looks the version up
        "assert code == 0 and not heavy, (code, heavy)"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "clipwise" in done.stdout


@pytest.mark.parametrize("missing", ["click", "rich", "torch", "pydantic", "matplotlib", "lightning_fabric"])
def test_a_missing_extra_is_one_sentence(folder: Path, missing: str) -> None:
    code = (
        f"import sys; sys.modules[{missing!r}] = None;"
        "from clipwise.cli import main; sys.exit(main(['compare', 'tiny.json']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert missing in done.stderr
    assert 'pip install "clipwise[lab]"' in done.stderr


def test_the_entry_point_is_installed() -> None:
    (script,) = [e for e in metadata.entry_points(group="console_scripts") if e.name == "clipwise"]
    assert script.load() is main
