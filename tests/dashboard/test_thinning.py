"""Thinning against what a brute force finds, and a spike of one step among a million."""

import math

import numpy as np
import pytest

from clipwise.dashboard.thinning import KINDS, averaged, running_mean, thin


def brute(steps, values, low, high, buckets):
    """First, least, largest and last finite value of each part, one point at a time."""
    kept, marks, seen = set(), {}, {}
    width = (high - low) / buckets
    for i, (step, value) in enumerate(zip(steps.tolist(), values.tolist(), strict=True)):
        if not low <= step <= high:
            continue
        part = min(int((step - low) / width), buckets - 1)
        if math.isfinite(value):
            seen.setdefault(part, []).append((i, value))
        else:
            kind = "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"
            marks.setdefault((part, kind), [step, 0])[1] += 1
    for points in seen.values():
        kept |= {points[0][0], points[-1][0]}
        kept |= {min(points, key=lambda p: p[1])[0], max(points, key=lambda p: p[1])[0]}
    found = sorted([step, kind, count] for (_, kind), (step, count) in marks.items())
    return sorted(kept), found


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("gaps", [False, True], ids=["every step", "gaps"])
def test_as_a_brute_force_finds(seed, gaps):
    rng = np.random.default_rng(seed)
    steps = np.arange(3000)
    if gaps:
        steps = np.sort(rng.choice(90_000, 3000, replace=False))
    values = rng.normal(size=3000).round(1)  # many are equal
    for bad in (np.nan, np.inf, -np.inf):
        values[rng.choice(3000, 20)] = bad
    low, high = float(steps[400]) + 0.5, float(steps[2600]) - 0.5
    found = thin(steps, values, low, high, 37)
    kept, marks = brute(steps, values, low, high, 37)
    inside = (found.steps >= low) & (found.steps <= high) & np.isfinite(found.values)
    assert found.steps[inside].tolist() == steps[kept].tolist()
    assert found.values[inside].tolist() == values[kept].tolist()
    assert sorted([step, KINDS[kind], count] for step, kind, count in found.marks.tolist()) == marks
    assert (np.diff(found.steps) > 0).all()
    assert found.steps[0] == steps[400]
    assert found.steps[-1] == steps[2600]
    broken = found.steps[np.isnan(found.values)]
    assert {step for step, _, _ in marks} <= set(broken.tolist())


def test_a_spike_of_one_step_among_a_million():
    rng = np.random.default_rng(0)
    values = rng.normal(size=1_000_000)
    values[654_321], values[123_456], values[777_777] = 90.0, -80.0, np.nan
    found = thin(np.arange(1, 1_000_001), values, buckets=600)
    assert len(found.steps) <= 4 * 600 + 1
    assert found.steps[np.nanargmax(found.values)] == 654_322
    assert found.steps[np.nanargmin(found.values)] == 123_457
    assert found.marks.tolist() == [[777_778, 0, 1]]


def test_few_points_are_all_there():
    values = np.array([1.0, np.nan, np.inf, 2.0])
    found = thin(np.array([2, 4, 6, 8]), values, buckets=1)
    assert found.steps.tolist() == [2, 4, 6, 8]
    np.testing.assert_array_equal(found.values, [1.0, np.nan, np.nan, 2.0])
    assert [KINDS[kind] for _, kind, _ in found.marks] == ["nan", "inf"]


def test_a_step_that_was_recorded_several_times_keeps_its_points():
    found = thin(np.array([1, 2, 2, 2, 3]), np.array([1.0, 5.0, 9.0, 1.0, 2.0]))
    assert found.values.tolist() == [1.0, 5.0, 9.0, 1.0, 2.0]
    assert np.floor(found.steps).tolist() == [1, 2, 2, 2, 3]
    assert (np.diff(found.steps) > 0).all()


@pytest.mark.parametrize("steps", [[], [7], [7, 7, 7]])
def test_next_to_nothing(steps):
    found = thin(np.array(steps, dtype=np.int64), np.ones(len(steps)), buckets=10)
    assert len(found.values) == len(steps)
    assert len(thin(np.array([1, 2]), np.ones(2), 50.0, 60.0).marks) == 0


def test_nothing_but_nan():
    found = thin(np.arange(1000), np.full(1000, np.nan), buckets=5)
    assert np.isnan(found.values).all()
    assert found.marks[:, 2].sum() == 1000


@pytest.mark.parametrize("window", [1, 3, 50])
def test_running_mean(window):
    values = np.random.default_rng(1).normal(1e8, 1, 400)
    values[[3, 4, 5, 90]] = np.nan, np.inf, -np.inf, np.nan
    expected = []
    for i in range(400):
        last = [v for v in values[max(0, i - window + 1) : i + 1] if math.isfinite(v)]
        expected.append(math.fsum(last) / len(last) if last else math.nan)
    np.testing.assert_allclose(running_mean(values, window), expected, rtol=1e-14)


def test_a_share_is_the_mean_of_its_part():
    rng = np.random.default_rng(3)
    steps = np.sort(rng.choice(90_000, 3000, replace=False))
    values = rng.integers(0, 2, 3000).astype(float)
    values[rng.choice(3000, 20)] = np.nan
    low, high = float(steps[400]), float(steps[2600])
    found = averaged(steps, values, low, high, 37)
    here = (steps >= low) & (steps <= high) & ~np.isnan(values)
    edges = np.linspace(steps[here][0], steps[here][-1], 38)
    part = np.clip(np.searchsorted(edges, steps[here], "right") - 1, 0, 36)
    expected = [values[here][part == one].mean() for one in range(37)]
    np.testing.assert_allclose(found.values, expected)
    assert found.steps.tolist() == [steps[here][part == one][0] for one in range(37)]
    few = averaged(steps[:30], values[:30])
    assert few.values.tolist() == values[:30][~np.isnan(values[:30])].tolist()
    assert not len(averaged(steps[:0], values[:0]).steps)
