"""One training run: against a loop written by hand, and at its edges."""

import itertools
import math
import os
import random
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision

import clipwise
from clipwise import clip_by_global_norm
from clipwise.clip import AnyClip
from clipwise.errors import ConfigError, DataError, NonFiniteError
from clipwise.lab.config.lab_config import LabConfig, parse_config
from clipwise.lab.record import STEP_COLUMNS, RunInfo, RunRecord
from clipwise.lab.recording import RecordingTarget, RunLog, record_of
from clipwise.lab.tasks.load import load_task
from clipwise.lab.tasks.models import build_model, detached
from clipwise.lab.training.checkpoint import load_checkpoint
from clipwise.lab.training.loop import CHECK_STEPS, TrainingRun
from clipwise.lab.training.threads import threads
from clipwise.lab.training.train import train
from clipwise.monitor import Store
from tests.depth import thorough

Make = Callable[..., LabConfig]


@pytest.fixture
def text(tmp_path: Path) -> Make:
    """A configuration of a tiny language model on a generated text, with some keys changed."""
    words = random.Random(0).choices(["to", "be", "or", "not", "that", "is", "the", "question"], k=1500)
    (tmp_path / "t.txt").write_text(" ".join(words))

    def make(training: dict[str, Any] | None = None, **top: Any) -> LabConfig:
        base = {"optimizer": "SGD", "learning_rate": 2.0, "steps": 30, "batch_size": 8, "sequence_length": 12}
        data = {
            "model_type": "LSTM",
            "task": "Language_Modeling",
            "model_parameters": {"hidden_size": 12, "embedding_size": 6},
            "data": {"path": "t.txt"},
            "training_parameters": base | (training or {}),
            "device": "cpu",
        }
        return parse_config(data | top, folder=tmp_path)

    return make


@pytest.fixture
def series(tmp_path: Path) -> Make:
    """A configuration that explodes without clipping: a steep loss and a high rate.

    Without momentum, which would make of the last bit of a product another training: where a clipped run of
    this ends is the same to six digits whatever the width of the vectors.
    """
    values = [math.sin(i / 5) for i in range(600)]
    pl.DataFrame({"v": values}).write_csv(tmp_path / "s.csv")

    def make(training: dict[str, Any] | None = None, **top: Any) -> LabConfig:
        base = {"optimizer": "SGD", "learning_rate": 5.0, "steps": 400}
        data = {
            "model_type": "RNN",
            "task": "Time_Series_Forecasting",
            "model_parameters": {"hidden_size": 8},
            "data": {"path": "s.csv", "value_column": "v"},
            "training_parameters": base | {"batch_size": 8, "sequence_length": 8} | (training or {}),
            "device": "cpu",
        }
        return parse_config(data | top, folder=tmp_path)

    return make


def run(config: LabConfig, clip: AnyClip | None, **options: Any) -> RunRecord:
    return train(config, clip, label="a label", role="given", **options)


def by_hand(config: LabConfig, threshold: float, steps: int) -> dict[str, list[float]]:
    """The same training in plain torch, with torch's own clipping."""
    task = load_task(config)
    torch.manual_seed(config.seed)
    model = build_model(task.spec)
    training = config.training_parameters
    optimizer = torch.optim.SGD(model.parameters(), lr=training.learning_rate or 0.0)
    state = None

    def share(step: int) -> float:
        if step < training.warmup:
            return (step + 1) / (training.warmup + 1)
        left = (steps - step) / (steps - training.warmup)
        return left if training.decay == "linear" else 1.0

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, share)
    seen: dict[str, list[float]] = {"loss": [], "norm": []}
    for batch in itertools.islice(task.batches(config.seed), steps):
        optimizer.zero_grad()
        outputs, state = model(batch.x, detached(state) if batch.continues else None)
        loss = torch.nn.functional.cross_entropy(outputs.flatten(0, 1), batch.y.flatten())
        loss.backward()
        seen["norm"].append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), threshold)))
        optimizer.step()
        schedule.step()
        seen["loss"].append(loss.item())
    return seen


@pytest.mark.parametrize("schedule", [{}, {"warmup": 4, "decay": "linear"}])
def test_it_is_the_loop_that_people_write(text: Make, schedule: dict[str, Any]) -> None:
    config = text(schedule, seed=5)
    record = run(config, clip_by_global_norm(0.2))
    expected = by_hand(config, 0.2, 30)
    # torch divides by norm + 1e-6 and sums in another order; 30 steps let that grow, to 7e-7 of the loss and
    # 4e-6 of the norm at every vector width.
    assert record.steps["loss"] == pytest.approx(expected["loss"], rel=1e-4)
    assert record.steps["norm"] == pytest.approx(expected["norm"], rel=1e-3)
    assert record.steps["threshold"] == [0.2] * 30
    clipped = [float(norm > 0.2) for norm in record.steps["norm"]]
    assert record.steps["clip_fraction"] == clipped
    assert 0 < sum(clipped) < 30
    bounded = [min(norm, 0.2) for norm in record.steps["norm"]]
    assert record.steps["norm_after"] == pytest.approx(bounded, rel=1e-5)


def test_the_record_says_what_it_is(text: Make) -> None:
    record = run(text(), clip_by_global_norm(0.5), seed=3)
    assert (record.label, record.clip, record.role) == ("a label", "clip_by_global_norm(0.5)", "given")
    assert (record.seed, record.metric, record.lower_is_better) == (3, "bits", True)
    assert [e.step for e in record.evaluations] == list(range(3, 31, 3))
    assert set(record.final) == {"bits", "accuracy", "loss", "perplexity"}
    assert set(record.steps) == set(STEP_COLUMNS)
    assert all(len(column) == 30 for column in record.steps.values())
    assert 0 < record.evaluations[0].seconds <= record.seconds
    assert not record.interrupted


@pytest.mark.parametrize("kind", ["LSTM", "Transformer"])
def test_two_runs_with_one_seed_are_equal_to_the_last_bit(text: Make, kind: str) -> None:
    config = text(model_type=kind, model_parameters={"hidden_size": 12, "dropout": 0.2})
    torch.rand(5)  # the caller's random state neither enters
    first = run(config, clip_by_global_norm(0.5))
    state = torch.get_rng_state()
    second = run(config, clip_by_global_norm(0.5))
    other = run(config, clip_by_global_norm(0.5), seed=1)
    assert torch.equal(torch.get_rng_state(), state)  # nor is touched
    assert first.steps == second.steps
    assert [e.metrics for e in first.evaluations] == [e.metrics for e in second.evaluations]
    assert first.steps["loss"] != other.steps["loss"]


def test_a_threshold_that_never_fires_is_no_clipping(text: Make) -> None:
    config = text()
    baseline, idle = run(config, None), run(config, clip_by_global_norm(1e6))
    assert baseline.clip is None
    assert baseline.steps["loss"] == idle.steps["loss"]
    assert baseline.steps["norm"] == idle.steps["norm"]
    assert set(baseline.steps["threshold"]) == {math.inf}
    assert set(idle.steps["clip_fraction"]) == {0.0}


def test_one_batch_in_several_parts_is_the_same_step(text: Make) -> None:
    whole = run(text(), clip_by_global_norm(0.5))
    parts = run(text({"accumulate": 4}), clip_by_global_norm(0.5))
    # Means of means: the same numbers in another order, for 30 steps.
    assert parts.steps["loss"] == pytest.approx(whole.steps["loss"], rel=1e-4)
    assert parts.steps["norm"] == pytest.approx(whole.steps["norm"], rel=1e-3)


def test_without_clipping_nan_stays_and_the_run_ends(series: Make) -> None:
    record = run(series(), None)
    steps = len(record.steps["loss"])
    assert steps < 400
    assert steps % CHECK_STEPS == 0
    assert not math.isfinite(record.steps["loss"][-1])
    assert not math.isfinite(record.final["rmse"])
    assert record.evaluations[-1].step == steps
    assert (record.interrupted, record.skipped_steps) == (False, 0)


def test_the_same_with_clipping_comes_through(series: Make) -> None:
    record = run(series(), clip_by_global_norm(0.01))
    assert len(record.steps["loss"]) == 400
    assert record.final["rmse"] < 0.1  # 0.0509 at every width; untrained 1.194
    adaptive = run(series({"steps": 100}), clipwise.auto())
    assert adaptive.clip == "auto()"
    assert all(map(math.isfinite, adaptive.steps["loss"]))


def test_a_nan_in_the_gradient_is_skipped_or_an_error(series: Make) -> None:
    record = run(series(), clip_by_global_norm(1e30))
    assert record.skipped_steps == sum(n > 0 for n in record.steps["nonfinite"]) > 0
    with pytest.raises(NonFiniteError):
        run(series({"nonfinite": "error"}), clip_by_global_norm(1e30))


def test_the_clip_is_told_the_loss(text: Make) -> None:
    policy = clipwise.thresholds.reduce_on_instability(start=1.0, factor=0.5, window=10, patience=1, z=0.5)
    record = run(text({"steps": 60, "learning_rate": 8.0}), clip_by_global_norm(policy))
    # It refuses to work without a loss; with one that jumps around it lowers the threshold: first at step 10,
    # down to 0.05, at every vector width.
    assert record.steps["threshold"][0] == 1.0
    assert record.steps["threshold"][-1] < 1.0


def test_epochs(text: Make) -> None:
    config = text({"steps": None, "epochs": 2})
    record = run(config, None)
    assert len(record.steps["loss"]) == 2 * load_task(config).steps_per_epoch


def test_progress_tells_the_last_step(text: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clipwise.lab.training.loop.TOLD_SECONDS", -1.0)
    told: list[tuple[int, int, dict[str, float]]] = []
    record = run(text(), clip_by_global_norm(0.5), progress=lambda *args: told.append(args))
    assert [step for step, _, _ in told] == [*range(1, 31), 30]
    assert {total for _, total, _ in told} == {30}
    for step, _, figures in told:
        assert figures == {
            name: record.steps[name][step - 1] for name in ("loss", "norm", "threshold", "clip_fraction")
        }


def test_ctrl_c_ends_it_after_the_step_and_saves(
    text: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clipwise.lab.training.loop.TOLD_SECONDS", -1.0)

    pressed: list[int] = []

    def press(step: int, total: int, figures: dict[str, float]) -> None:
        if step == 7 and not pressed:
            pressed.append(step)
            os.kill(os.getpid(), signal.SIGINT)

    handler = signal.getsignal(signal.SIGINT)
    config = text()
    record = run(config, clip_by_global_norm(0.5), progress=press, checkpoint=tmp_path / "model.pt")
    assert signal.getsignal(signal.SIGINT) is handler
    assert record.interrupted
    assert len(record.steps["loss"]) == 7
    full = run(config, clip_by_global_norm(0.5))
    assert record.steps["loss"] == full.steps["loss"][: len(record.steps["loss"])]
    assert record.evaluations[-1].step == len(record.steps["loss"])
    assert load_checkpoint(tmp_path / "model.pt").step == len(record.steps["loss"])


def test_a_second_ctrl_c_does_not_wait(text: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clipwise.lab.training.loop.TOLD_SECONDS", -1.0)

    def press_twice(step: int, total: int, figures: dict[str, float]) -> None:
        if step == 7:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            raise AssertionError("the second one did nothing")

    record = run(text(), None, progress=press_twice)
    assert record.interrupted
    assert len(record.steps["loss"]) == 7


def test_outside_the_main_thread_it_trains_too(text: Make) -> None:
    records: list[RunRecord] = []
    thread = threading.Thread(target=lambda: records.append(run(text(), None)))
    thread.start()
    thread.join()
    assert len(records[0].steps["loss"]) == 30


def test_a_checkpoint_is_the_model_that_was_evaluated(text: Make, tmp_path: Path) -> None:
    config = text()
    record = run(config, clipwise.autoclip(50), checkpoint=tmp_path / "deep" / "model.pt")
    found = load_checkpoint(tmp_path / "deep" / "model.pt")
    assert found.config.to_dict() == config.to_dict()
    assert (found.step, found.seed, found.metrics) == (30, 0, record.final)
    assert found.clip is not None
    assert clipwise.config.parse(found.clip) == clipwise.autoclip(50)
    assert found.clipper["steps"] == 30
    figures = load_task(config).evaluate(found.model, torch.device("cpu"), torch.enable_grad)
    assert figures == record.final
    assert found.details["characters"][1:] == "".join(sorted(set("to be or not that is the question")))


def test_a_file_that_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        load_checkpoint(tmp_path / "none.pt")
    (tmp_path / "text.pt").write_text("not a model")
    with pytest.raises(DataError, match="no checkpoint"):
        load_checkpoint(tmp_path / "text.pt")
    torch.save({"version": 1, "spec": {}}, tmp_path / "half.pt")
    with pytest.raises(DataError, match="the checkpoint is damaged"):
        load_checkpoint(tmp_path / "half.pt")


def test_bf16_trains_like_32(text: Make) -> None:
    full, half = run(text(), clip_by_global_norm(0.5)), run(text(precision="bf16"), clip_by_global_norm(0.5))
    assert half.steps["loss"] != full.steps["loss"]
    # bfloat16 keeps 8 bits of each factor: 5e-4 at most, with cells in bfloat16 and without.
    assert half.steps["loss"] == pytest.approx(full.steps["loss"], rel=0.03)


def test_scaled_gradients_are_never_what_is_measured(text: Make, tmp_path: Path) -> None:
    """A scaler whose scale overflows float16 drops its first steps; those it takes are unscaled."""
    config = text(model_type="Transformer")  # oneDNN has no float16 LSTM to train on a CPU
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**24, backoff_factor=2.0**-4)  # type: ignore[attr-defined]
    precision = MixedPrecision("16-mixed", device="cpu", scaler=scaler)
    clip = clip_by_global_norm(0.5)
    info = RunInfo("l", None, "given", 0, "bits", True)
    with RunLog(RecordingTarget(tmp_path / "run.db"), info, clip) as log:
        fabric = Fabric(accelerator="cpu", devices=1, plugins=precision)
        TrainingRun(fabric, config, load_task(config), clip, 0, log).train(lambda: False, None)
        record = log.finish(interrupted=False)
    dropped = [math.isnan(norm) for norm in record.steps["norm"]]
    assert record.skipped_steps == sum(dropped) == sum(record.steps["nonfinite"]) > 0
    assert all(norm < 10 for norm in record.steps["norm"] if not math.isnan(norm))
    full = run(config, clip_by_global_norm(0.5))
    # The first step that is taken starts from the initial weights: its norm is that of float32 on that batch.
    taken = dropped.index(False)
    assert record.steps["norm"][taken] == pytest.approx(full.steps["norm"][0], rel=0.3)


@thorough
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_devices_are_one_with_the_same_batch(text: Make, tmp_path: Path, strategy: str) -> None:
    config = text({"nonfinite": "skip"})
    told: list[int] = []
    one = run(config, clipwise.auto(), checkpoint=tmp_path / "one.pt")
    two = run(
        config.override(devices=2, strategy=strategy),
        clipwise.auto(),
        progress=lambda step, total, figures: told.append(step),
        checkpoint=tmp_path / "model.pt",
        recording=RecordingTarget(tmp_path / "runs.db"),
    )
    # Gradients are averaged over processes in place of over the batch, for 30 steps.
    assert two.steps["loss"] == pytest.approx(one.steps["loss"], rel=1e-4)
    assert two.steps["norm"] == pytest.approx(one.steps["norm"], rel=1e-3)
    assert two.steps["threshold"] == pytest.approx(one.steps["threshold"], rel=1e-3)
    assert told[-1] == 30
    weights, expected = (load_checkpoint(tmp_path / f"{name}.pt") for name in ("model", "one"))
    assert weights.step == expected.step == 30
    torch.testing.assert_close(weights.model.state_dict(), expected.model.state_dict(), rtol=1e-4, atol=1e-4)
    with Store(tmp_path / "runs.db") as store:
        (found,) = store.runs()  # the first process speaks for both
        assert (found.status, found.steps, found.ranks) == ("finished", 30, (0,))
        assert record_of(store, found) == two


@pytest.mark.parametrize(("top", "message"), [
    ({"device": "cuda"}, "device: must be available here"),
    ({"precision": "16"}, "precision: '16' needs a CUDA GPU, the device is 'cpu'"),
])  # fmt: skip
def test_what_this_machine_has_not(
    text: Make, monkeypatch: pytest.MonkeyPatch, top: dict[str, str], message: str
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ConfigError, match=message):
        run(text(**top), None)


def test_more_devices_than_there_are(text: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ConfigError, match="devices: must be at most 1, the cuda devices here, got 2"):
        run(text(device="cuda", devices=2), None)


def test_global_settings_are_put_back(text: Make) -> None:
    before = torch.are_deterministic_algorithms_enabled(), torch.get_num_threads()
    run(text({"steps": 1}), None)
    assert (torch.are_deterministic_algorithms_enabled(), torch.get_num_threads()) == before


def test_a_schedule_of_a_function_is_named_by_its_repr(text: Make) -> None:
    policy = clipwise.thresholds.schedule(lambda step: 1.0)
    record = run(text({"steps": 2}), clip_by_global_norm(policy))
    assert record.clip is not None
    assert "schedule" in record.clip


@pytest.mark.parametrize(("kind", "size"), [
    ("LSTM", 10**8), ("LSTM", 10**12), ("LSTM", 10**30), ("Transformer", 10**12), ("Transformer", 10**30),
])  # fmt: skip
def test_a_model_beyond_the_memory_is_one_sentence(text: Make, kind: str, size: int) -> None:
    config = text(model_type=kind, model_parameters={"hidden_size": size, "embedding_size": 10**4})
    with pytest.raises(ConfigError) as caught:
        run(config, None)
    assert str(caught.value).startswith("model_parameters: too large for the memory of this machine")
    assert f"hidden_size {size}" in str(caught.value)


def test_another_error_in_the_model_is_not_called_memory(text: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: object) -> None:
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr("clipwise.lab.training.loop.build_model", broken)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        run(text(), None)


@pytest.mark.parametrize(("kind", "size", "expected"), [
    ("LSTM", 12, 1), ("LSTM", 256, 1), ("LSTM", 260, 2), ("Transformer", 12, 2),
])  # fmt: skip
def test_a_run_uses_the_threads_it_says(text: Make, kind: str, size: int, expected: int) -> None:
    config = text({"steps": 1}, model_type=kind, model_parameters={"hidden_size": size})
    before, seen = torch.get_num_threads(), list[int]()
    torch.set_num_threads(2)
    try:
        assert threads(config) == expected
        run(config, None, progress=lambda *_: seen.append(torch.get_num_threads()))
        assert torch.get_num_threads() == 2
        assert threads(config.override(devices=2)) == 1
    finally:
        torch.set_num_threads(before)
    assert set(seen) == {expected}
