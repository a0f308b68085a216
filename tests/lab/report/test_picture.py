"""The picture is drawn for every kind of run, and what it draws can be trusted."""

import itertools
import math
import struct
import subprocess
import sys

import numpy as np
import pytest

from clipwise.lab.compare.groups import group
from clipwise.lab.record import RunRecord
from clipwise.lab.report.curves import (
    Curve,
    held_out,
    limits,
    middle,
    smooth,
    step_curve,
    thinned,
    until_divergence,
)
from clipwise.lab.report.picture import compose, draw
from tests.lab.records import clipped, record

NAN, INF = math.nan, math.inf


def curve(*values: float) -> Curve:
    return Curve(np.arange(1, len(values) + 1), np.array(values))


def size(png: bytes) -> tuple[int, int]:
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", png[16:24])
    return width, height


@pytest.mark.parametrize(
    "runs",
    [
        [record(held_out=[3.0, 2.0]), clipped(held_out=[2.0, 1.0])],
        [record(loss=[1.0, NAN], norm=[1.0, NAN]), clipped(held_out=[2.0, 1.0])],
        [record(loss=[1.0, 1e17, INF], norm=[1.0, 1e30, INF], held_out=[1e17]), clipped(held_out=[2.0])],
        [record(loss=[NAN], norm=[NAN])],
        [record(loss=[0.0, 0.0], norm=[0.0, 0.0], held_out=[0.0])],
        [clipped(loss=[1.0], norm=[1.0], interrupted=True)],
        [clipped("clip_by_global_norm(0.0)", threshold=0.0, held_out=[1.0])],
        [make(seed=s, held_out=[2.0 + s]) for s in range(3) for make in (record, clipped)],
        [clipped(f"clip_by_global_norm({i})", held_out=[float(i)]) for i in range(9)],
        [clipped("by_name({'" + "x" * 200 + "': none})", held_out=[1.0])],
        [record(held_out=[0.4, 0.6], metric="f1", lower_is_better=False)],
    ],
    ids=[
        "plain", "nan", "exploded", "all-nan", "zeros", "interrupted", "zero", "seeds", "nine", "long", "f1",
    ],
)  # fmt: skip
def test_every_kind_of_run_is_drawn_without_a_warning(
    runs: list[RunRecord], recwarn: pytest.WarningsRecorder
) -> None:
    assert size(draw(runs, group(runs), title=r"Clipping $\nothing{ and 100 % of $_{it}"))[0] == 1950
    assert [str(warning.message) for warning in recwarn] == []


def many(count: int) -> list[RunRecord]:
    clips = [clipped(f"clip_by_global_norm({0.5 + i})", held_out=[2.0 + i]) for i in range(count - 1)]
    return [record(held_out=[9.0]), *clips]


@pytest.mark.parametrize("count", [2, 4, 6, 18, 40])
def test_with_many_clips_nothing_covers_anything(count: int) -> None:
    runs = many(count)
    figure = compose(runs, group(runs))
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    metric, _, _, bars = figure.axes
    for column in (0, 1):  # the labels at the left, the shares at the right
        texts = [text.get_window_extent(renderer) for text in bars.texts[column::2]]
        boxes = sorted([*texts, *(bar.get_window_extent() for bar in bars.patches[::2])], key=lambda b: b.y0)
        assert len(boxes) == 2 * (count - 1)
        assert all(below.y1 <= above.y0 for below, above in itertools.pairwise(boxes))
    values = sorted((text.get_window_extent(renderer) for text in metric.texts), key=lambda b: b.y0)
    assert len(values) == count
    # a box holds room for letters below the line, which numbers have not: a quarter of it
    assert all(below.y1 - below.height / 4 <= above.y0 for below, above in itertools.pairwise(values))
    legend = figure.legends[0].get_window_extent(renderer)
    assert 0 <= legend.x0 < legend.x1 <= figure.bbox.width
    assert metric.get_window_extent().height > 1.8 * figure.dpi


@pytest.mark.parametrize("far", [1e-8, 1e8])
@pytest.mark.parametrize("count", [1, 60])
def test_every_threshold_is_on_the_axis(far: float, count: int) -> None:
    runs = [clipped("far", threshold=far), clipped("zero", threshold=0.0), clipped("none", threshold=INF)]
    runs += [clipped(f"near {i}") for i in range(count)]
    low, high = compose(runs, group(runs)).axes[2].get_ylim()
    assert low < far < high
    assert low < 0.5 < high
    assert min(far, 0.5) / 10 < low
    assert high < max(far, 1.0) * 10


def test_light_and_dark_differ() -> None:
    runs = [record(held_out=[3.0, 2.0])]
    assert draw(runs, group(runs)) != draw(runs, group(runs), theme="dark")


def test_what_follows_a_divergence_is_cut() -> None:
    cut, at = until_divergence(record(loss=[1.0, 0.9, 1e5, 1e6, 1e7], held_out=[2.0] + [1e9] * 4))
    assert at == 3
    assert cut.steps["loss"] == [1.0, 0.9, 1e5]
    assert [e.step for e in cut.evaluations] == [1, 2]


def test_a_sound_run_is_drawn_whole() -> None:
    run = record()
    assert until_divergence(run) == (run, None)


def test_the_middle_of_the_seeds_is_not_that_of_the_survivors() -> None:
    line = middle([curve(1.0, 1.0, 1.0), curve(3.0), curve(2.0, NAN)])
    assert line.steps.tolist() == [1, 2, 3]
    assert line.values[0] == 2.0
    assert np.isnan(line.values[1:]).all()


def test_running_median() -> None:
    values = np.random.default_rng(0).standard_normal(200)
    values[7] = NAN
    found = smooth(curve(*values)).values
    expected = [np.nanmedian(values[max(0, i - 4) : i + 1]) for i in range(200)]  # a window of 200 / 40
    np.testing.assert_array_equal(found, expected)


def test_of_a_long_run_no_spike_is_lost() -> None:
    loss = [1.0] * 50_000
    loss[33_333] = 9.0
    line = thinned(step_curve(record(loss=loss), "loss"))
    assert len(line.steps) <= 4000
    assert line.steps[line.values == 9.0].tolist() == [33_334]


def test_a_picture_needs_no_server() -> None:
    code = (
        "import sys; sys.modules['starlette'] = sys.modules['uvicorn'] = None;"
        "import clipwise.lab.report.output"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def test_limits_ignore_what_is_not_finite() -> None:
    assert limits([curve(NAN, 1.0), curve(INF, 3.0)]) == (1.0, 3.0)
    assert limits([curve(NAN)]) is None
    assert limits([]) is None


def test_curves_of_a_record() -> None:
    run = record(loss=[2.0, INF, 1.0], held_out=[4.0, NAN, 3.0])
    np.testing.assert_array_equal(held_out(run).values, [4.0, NAN, 3.0])
    np.testing.assert_array_equal(step_curve(run, "loss").values, [2.0, NAN, 1.0])
