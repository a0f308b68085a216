"""TensorBoard's own EventAccumulator reads what was written."""

import os
import subprocess
import sys
import types

import numpy as np
import pytest

from clipwise.errors import ArgumentError
from clipwise.monitor.exporters import TensorBoard, export
from clipwise.monitor.store import moments_of

from .conftest import ALERT, LATE, LAYERS, LOSS, NORM, SECOND, START, TIMES, pieces, rows, same

pytest.importorskip("tensorboard", reason="tensorboard is not installed")

# Without this TensorBoard's reader would load TensorFlow, which takes long and reads nothing better.
sys.modules.setdefault("tensorboard.compat.notf", types.ModuleType("tensorboard.compat.notf"))

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # noqa: E402

RUN = "lstm: <b>/1"


def read(folder):
    found = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0})
    found.Reload()
    return found


def by_step(events):
    return {event.step: event.value for event in events}


@pytest.fixture
def events(store, tmp_path):
    done = export(store, RUN, TensorBoard(tmp_path / "runs"))
    assert done.place == str(tmp_path / "runs" / "lstm_b_1")
    return read(done.place)


def test_every_series_with_its_steps_as_float32(events):
    assert set(events.Tags()["scalars"]) == {
        "clipwise/norm",
        "loss",
        "accuracy",
        "clipwise/norm/a.weight",
        "clipwise/norm/a.bias",
    }
    same(by_step(events.Scalars("loss")), LOSS, at=np.float32)
    same(by_step(events.Scalars("clipwise/norm")), NORM, at=np.float32)
    same(by_step(events.Scalars("accuracy")), LATE)
    same(by_step(events.Scalars("clipwise/norm/a.weight")), {s: v["a.weight"] for s, v in LAYERS.items()})
    assert by_step(events.Scalars("clipwise/norm/a.bias")) == {2: 0.5}


@pytest.mark.parametrize("tag", ["loss", "accuracy", "clipwise/norm/a.weight"])
def test_the_time_is_that_of_the_step(events, tag):
    for event in events.Scalars(tag):
        assert event.wall_time == TIMES[event.step]


def test_alerts_and_facts_are_text(events):
    first, second = events.Tensors("clipwise/alerts/text_summary")
    assert (first.step, first.wall_time) == (2, ALERT.time)
    text = first.tensor_proto.string_val[0].decode()
    assert text.startswith("**critical: loss_nonfinite** (rank 1)")
    assert f"{ALERT.seen} {ALERT.why} {ALERT.advice}" in text
    assert SECOND.seen in second.tensor_proto.string_val[0].decode()
    assert first.wall_time == TIMES[2]
    (facts,) = events.Tensors("clipwise/facts/text_summary")
    assert (facts.step, facts.wall_time) == (0, START)
    assert "seed: 3" in facts.tensor_proto.string_val[0].decode()
    assert "clip: clip_by_norm(1.0)" in facts.tensor_proto.string_val[0].decode()
    assert "clipwise/alerts/text_summary" in events.summary_metadata
    assert events.summary_metadata["clipwise/alerts/text_summary"].plugin_data.plugin_name == "text"


def test_beyond_float32_is_inf(tmp_path):
    from clipwise.monitor.store import Moment

    exporter = TensorBoard(tmp_path)
    exporter.begin("big", {})
    exporter.write([Moment(1, "", {"loss": 1e300}), Moment(2, "", {"loss": -1e300})])
    exporter.close()
    assert by_step(read(tmp_path / "big").Scalars("loss")) == {1: np.inf, 2: -np.inf}


def test_what_is_there_stays_unless_it_is_to_be_replaced(store, tmp_path):
    done = export(store, RUN, TensorBoard(tmp_path, taken="refuse"))
    before = sorted(os.listdir(done.place))
    with pytest.raises(ArgumentError, match="already exists"):
        export(store, RUN, TensorBoard(tmp_path, taken="refuse"))
    assert sorted(os.listdir(done.place)) == before
    export(store, RUN, TensorBoard(tmp_path, taken="replace"))
    assert len(os.listdir(done.place)) == 1
    assert os.listdir(done.place) != before
    same(by_step(read(done.place).Scalars("loss")), LOSS, at=np.float32)
    export(store, "plain", TensorBoard(tmp_path, taken="refuse"))  # beside it
    assert sorted(os.listdir(tmp_path / "plain")) != before


def test_live_it_can_be_read_before_the_end_and_takes_a_free_name(tmp_path):
    for name in ("lr0.1", "lr0.1-2"):
        exporter = TensorBoard(tmp_path)
        exporter.begin("lr0.1", {"seed": 1}, started=5.0)
        for some in pieces():
            exporter.write(some, [])
        exporter.write([], [ALERT])
        found = read(tmp_path / name)
        same(by_step(found.Scalars("loss")), LOSS, at=np.float32)
        assert len(found.Tensors("clipwise/alerts/text_summary")) == 1
        exporter.close()
        exporter.close()


def test_it_needs_neither_tensorflow_nor_torch(tmp_path):
    code = (
        "import sys; from clipwise.monitor.exporters import TensorBoard;"
        "from clipwise.monitor.store import Moment; e = TensorBoard(sys.argv[1]); e.begin('x', {'a': 1});"
        "e.write([Moment(1, '', {'loss': 1.0})]); e.close();"
        "print([m for m in ('tensorflow', 'torch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_what_comes_together_has_the_time_of_the_first_row_of_its_step(tmp_path):
    exporter = TensorBoard(tmp_path)
    exporter.begin("run", {})
    exporter.write(moments_of(rows()))
    exporter.close()
    for tag in ("loss", "accuracy", "clipwise/norm/a.weight"):
        for event in read(tmp_path / "run").Scalars(tag):
            assert event.wall_time == TIMES[event.step]


def test_sources_stand_before_the_names(tmp_path):
    from clipwise.monitor.store import Moment

    exporter = TensorBoard(tmp_path)
    exporter.begin("gan", {})
    exporter.write(
        [
            Moment(1, "critic", {"clipwise/norm": 2.0, "loss": 0.5}, {"w": 1.0}, time=7.0),
            Moment(1, "", {"loss": 4.0}, time=8.0),
        ]
    )
    exporter.close()
    found = read(tmp_path / "gan")
    assert {tag: by_step(found.Scalars(tag)) for tag in found.Tags()["scalars"]} == {
        "critic/clipwise/norm": {1: 2.0},
        "critic/loss": {1: 0.5},
        "loss": {1: 4.0},
        "clipwise/norm/critic/w": {1: 1.0},
    }
    assert {event.wall_time for tag in found.Tags()["scalars"] for event in found.Scalars(tag)} == {7.0}
