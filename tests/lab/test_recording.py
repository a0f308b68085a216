"""A comparison is a recording like any other: seen as it trains, read by other commands, taken up again."""

import contextlib
import csv
import itertools
import json
import math
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clipwise import auto, clip_by_global_norm
from clipwise.cli import main
from clipwise.dashboard.recording import Recording
from clipwise.errors import NonFiniteError, StoreError
from clipwise.lab.config.lab_config import LabConfig, parse_config
from clipwise.lab.record import RunInfo, RunRecord
from clipwise.lab.recording import RecordingTarget, RunLog, finished_runs, record_of
from clipwise.lab.report import results
from clipwise.lab.training.train import train
from clipwise.monitor import Monitor, MonitorWarning, Store
from tests.depth import thorough

INFO = RunInfo("auto", "auto()", "auto", 3, "bits", True)


def config(folder: Path, **training: Any) -> LabConfig:
    """A configuration that trains in a moment, also as ``tiny.json``."""
    (folder / "text.txt").write_text("the quick brown fox jumps over the lazy dog. " * 200)
    base = {"optimizer": "SGD", "learning_rate": 0.5, "steps": 12, "batch_size": 4, "sequence_length": 16}
    data = {
        "model_type": "RNN",
        "task": "Language_Modeling",
        "model_parameters": {"hidden_size": 8, "embedding_size": 4},
        "data": {"path": "text.txt"},
        "training_parameters": base | {"gradient_clipping": "clip_by_global_norm(0.1)"} | training,
        "device": "cpu",
    }
    (folder / "tiny.json").write_text(json.dumps(data))
    return parse_config(data, folder=folder)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(config: LabConfig, target: RecordingTarget, clip: Any = None, **options: Any) -> RunRecord:
    label = "no clipping" if clip is None else "clipped"
    return train(config, clip, label=label, role="given", recording=target, **options)


def until(found: Callable[[], bool], seconds: float = 300.0) -> None:
    """Wait for something that another thread or process does."""
    end = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < end, "it has not happened"
        time.sleep(0.02)


def test_a_comparison_is_seen_while_it_trains(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clipwise.lab.training.loop.TOLD_SECONDS", -1.0)
    target = RecordingTarget(folder / "runs.db", "tiny", {"about": "test"})
    seen: list[Any] = []

    def look(step: int, total: int, figures: Any) -> None:
        if step != 5:
            return
        with Store(target.path) as store:
            until(lambda: len(store.runs()) == 2 and store.runs()[0].steps >= 4)
            now, before = store.runs()
            seen.append((now.name, now.status, before.name, before.status, now.facts["about"]))
            loss = store.series(now.id, ["loss"])["loss"]
            seen.append(loss.steps.tolist()[:4])
        page = Recording(target.path)
        seen.append([(one["name"], one["status"]) for one in page.runs()])
        page.close()

    training = config(folder)
    run(training, target)
    record = run(training, target, clip_by_global_norm(0.1), progress=look)
    names = "clipped, seed 0 (tiny)", "no clipping, seed 0 (tiny)"
    assert seen[0] == (names[0], "running", names[1], "finished", "test")
    assert seen[1] == [1, 2, 3, 4]
    assert seen[2] == [(names[0], "running"), (names[1], "finished")]
    assert len(record.steps["loss"]) == 12


def test_what_is_read_back_is_what_was_recorded(folder: Path) -> None:
    target = RecordingTarget(folder / "runs.db")
    record = run(config(folder), target, auto(), seed=4)
    with Store(target.path) as store:
        found = store.run()
        assert record_of(store, found) == record
        assert (found.clip, found.status, found.steps) == ("auto()", "finished", 12)
        series = store.series(found.id, ["loss", "clipwise/norm", "held_out_bits", "seconds"])
        layers = store.layers(found.id)
    assert series["loss"].values.tolist() == record.steps["loss"]
    assert series["clipwise/norm"].values.tolist() == record.steps["norm"]
    assert series["held_out_bits"].steps.tolist() == [e.step for e in record.evaluations]
    assert series["held_out_bits"].values.tolist() == [e.metrics["bits"] for e in record.evaluations]
    assert series["seconds"].values[-1] == record.seconds > 0
    # The norm of the whole is that of the norms of the parts: float32 sums of some hundred squares.
    whole = np.sqrt((layers.norms**2).sum(axis=1))
    assert whole == pytest.approx(np.asarray(record.steps["norm"])[layers.steps - 1], rel=1e-5)
    assert record.seed == 4


def test_under_observe_each_run_is_its_own(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLIPWISE_RUN", "one-for-all")
    monkeypatch.setenv("CLIPWISE_RUN_NAME", "script")
    target = RecordingTarget(folder / "runs.db")
    for clip in (None, clip_by_global_norm(0.1)):
        assert len(run(config(folder), target, clip).steps["loss"]) == 12
    with Store(target.path) as store:
        assert len(store.runs()) == 2


def test_alerts_are_recorded_and_not_said(folder: Path, recwarn: pytest.WarningsRecorder) -> None:
    target = RecordingTarget(folder / "runs.db")
    record = run(config(folder, learning_rate=3e38, steps=60), target)
    assert not math.isfinite(record.steps["loss"][-1])
    with Store(target.path) as store:
        assert "loss_nonfinite" in {alert.rule for alert in store.alerts(store.run().id)}
    assert not [warning for warning in recwarn if issubclass(warning.category, MonitorWarning)]


def test_a_run_that_fails_says_so(folder: Path) -> None:
    target = RecordingTarget(folder / "runs.db")
    failing = config(folder, learning_rate=3e38, steps=60, nonfinite="error")
    with pytest.raises(NonFiniteError):
        run(failing, target, clip_by_global_norm(1e30))
    with Store(target.path) as store:
        found = store.run()
        assert found.status == "failed"
        assert "NonFiniteError" in found.note
        assert record_of(store, found).interrupted


def test_a_recording_that_cannot_be_written_is_an_error(folder: Path) -> None:
    target = RecordingTarget(folder / "not" / "there" / "runs.db")
    with pytest.warns(MonitorWarning), pytest.raises(StoreError, match=r"could not be written to .*runs\.db"):
        run(config(folder), target)


def test_a_run_that_took_no_step_leaves_no_file(folder: Path) -> None:
    target = RecordingTarget(folder / "runs.db")
    with RunLog(target, INFO, auto()) as log:
        record = log.finish(interrupted=True)
    assert record == RunRecord("auto", "auto()", "auto", 3, "bits", True, interrupted=True)
    assert not target.path.exists()


@pytest.mark.parametrize("steps", [[1, 2, 2, 3], [1, 3], [2, 3]])
def test_each_step_is_there_once(folder: Path, steps: list[int]) -> None:
    path = folder / "runs.db"
    with RunLog(RecordingTarget(path), INFO, auto()) as log:
        for step in steps:
            log.step(step, 1.0, None)
    with Store(path) as store, pytest.raises(StoreError, match="steps that are missing, or recorded twice"):
        record_of(store, store.run())


def test_a_run_of_somebody_else_is_no_record(folder: Path) -> None:
    with Monitor(folder / "runs.db", run="mine") as monitor:
        monitor.log(step=1, loss=1.0)
    with Store(folder / "runs.db") as store, pytest.raises(StoreError, match="'mine' was not recorded by"):
        record_of(store, store.run())
    assert finished_runs(RecordingTarget(folder / "runs.db")) == []


def test_only_runs_with_the_same_facts_are_taken_over(folder: Path) -> None:
    path = folder / "runs.db"
    for facts, interrupted in itertools.product([{"settings": [1, None]}, {"settings": [2]}], [False, True]):
        with RunLog(RecordingTarget(path, facts=facts), INFO, auto()) as log:
            log.step(1, float(facts["settings"][0] or 0), None)
            log.finish(interrupted=interrupted)
    (found,) = finished_runs(RecordingTarget(path, facts={"settings": [1, None]}))
    assert found.steps["loss"] == [1.0]
    assert finished_runs(RecordingTarget(folder / "none.db")) == []


def test_the_other_commands_work_on_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config(folder, steps=60)
    assert main(["compare", "tiny.json", "--no-auto"]) == 0
    out, err = capsys.readouterr()
    assert "recording: clipwise.db (clipwise dashboard shows it live)" in err
    assert "recording      clipwise.db" in out
    name = "clip_by_global_norm(0.1), seed 0 (tiny)"
    assert main(["suggest", name]) == 0
    assert name in capsys.readouterr().out
    assert main(["suggest", "no clipping, seed 0 (tiny)", "--kind", "recurrent", "--json"]) == 0
    suggested = json.loads(capsys.readouterr().out)
    saved = results.load(folder / "clipwise-results" / "tiny" / "comparison.json")
    assert suggested["statistics"]["median"] == pytest.approx(np.median(saved[0].steps["norm"]))
    assert main(["report", name, "no clipping, seed 0 (tiny)", "--png", "report.png"]) == 0
    assert (folder / "report.png").read_bytes().startswith(b"\x89PNG")
    assert "no clipping, seed 0 (tiny)" in (folder / "report.html").read_text()
    capsys.readouterr()
    assert main(["export", name, "--to", "csv", "--out", "run.csv"]) == 0
    with (folder / "run.csv").open() as file:
        losses = [float(row["loss"]) for row in csv.DictReader(file) if row["loss"]]
    assert losses == pytest.approx(saved[1].steps["loss"], rel=1e-12)
    # Other data, and so another comparison: nothing of it is there.
    (folder / "text.txt").write_text("the quick brown dog jumps over the lazy fox. " * 200)
    capsys.readouterr()
    assert main(["compare", "tiny.json", "--no-auto", "--no-baseline", "--resume"]) == 0
    assert "0 of 1 runs are in clipwise.db already" in capsys.readouterr().err


@thorough
def test_a_killed_comparison_goes_on(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``kill -9`` in the second of three runs: one is kept, two trained, all is as if nothing had been."""
    config(folder, steps=400)
    words = ["compare", "tiny.json"]
    assert main([*words, "--out", "whole", "--db", "whole.db"]) == 0
    process = subprocess.Popen([sys.executable, "-m", "clipwise", *words], stderr=subprocess.DEVNULL)
    path = folder / "clipwise.db"
    until(path.exists)

    def second() -> bool:
        with contextlib.suppress(StoreError), Store(path) as store:  # for a moment it is empty
            return len(store.runs()) >= 2 and store.runs()[0].steps > 0
        return False

    try:
        until(second)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait(60)
    capsys.readouterr()
    assert main([*words, "--resume"]) == 0
    said = capsys.readouterr().err
    with Store(path) as store:
        runs = store.runs()[::-1]
        records = [record_of(store, each) for each in runs]  # refuses a step that is there twice
    states = [each.status for each in runs]
    lost = states.index("lost")
    killed = records[lost]
    assert states.count("finished") == 3
    assert states.count("lost") == 1
    assert f"{lost} of 3 runs are in clipwise.db already" in said
    assert lost in (1, 2)  # a slow machine may look too late
    assert 0 < len(killed.steps["loss"]) < 400
    one, other = (
        results.load(folder / name / "comparison.json") for name in ("whole", "clipwise-results/tiny")
    )
    assert [(r.label, r.seed, r.steps) for r in one] == [(r.label, r.seed, r.steps) for r in other]
    assert [[e.metrics for e in r.evaluations] for r in one] == [
        [e.metrics for e in r.evaluations] for r in other
    ]
    whole = next(r for r in one if (r.clip, r.seed) == (killed.clip, killed.seed))
    assert killed.steps["loss"] == whole.steps["loss"][: len(killed.steps["loss"])]


def test_a_place_that_cannot_be_recorded_to_is_one_sentence(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config(folder)
    for place, words in (("no/such.db", "there is no folder"), ("text.txt", "not a recording")):
        for command in ("train", "compare"):
            assert main([command, "tiny.json", "--db", place]) == 2
            out, err = capsys.readouterr()
            assert out == ""
            assert words in err
            assert err.count("\n") == 1
    assert not (folder / "clipwise-results").exists()
