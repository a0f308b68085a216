"""Several seeds of one clip: medians, ranges, and no run lost."""

import math

from clipwise.lab.compare.groups import Spread, baseline_of, best_of, group
from tests.lab.records import clipped, record

NAN = math.nan


def test_seeds_of_a_label_are_one_group_in_the_order_of_appearance() -> None:
    runs = [record(seed=0), clipped(seed=0), record(seed=1), clipped(seed=1)]
    groups = group(runs)
    assert [(each.label, len(each.runs)) for each in groups] == [
        ("no clipping", 2),
        ("clip_by_global_norm(0.5)", 2),
    ]
    assert baseline_of(groups) is groups[0]


def test_each_run_is_compared_with_the_baseline_of_its_seed() -> None:
    runs = [
        record(seed=0, held_out=[4.0]),
        record(seed=1, held_out=[8.0]),
        clipped(seed=0, held_out=[2.0]),
        clipped(seed=1, held_out=[2.0]),
    ]
    assert [run.error_reduction for run in group(runs)[1].runs] == [50.0, 75.0]


def test_a_diverged_seed_counts_as_the_worst_value() -> None:
    runs = [clipped(seed=s, held_out=[v]) for s, v in enumerate((2.5, 2.4))]
    runs.append(clipped(seed=2, loss=[1.0, NAN]))
    (found,) = group(runs)
    assert found.final == Spread(2.5, 2.4, math.inf)
    assert len(found.diverged) == 1


def test_where_more_is_better_the_worst_is_minus_infinity() -> None:
    runs = [clipped(seed=0, held_out=[0.6], metric="f1", lower_is_better=False)]
    runs.append(clipped(seed=1, loss=[1.0, NAN], metric="f1", lower_is_better=False))
    (found,) = group(runs)
    assert found.final.low == -math.inf
    assert found.final.high == 0.6


def test_reduction_between_medians() -> None:
    runs = [record(seed=s, held_out=[v]) for s, v in enumerate((4.0, 5.0, 100.0))]
    runs += [clipped(seed=s, held_out=[v]) for s, v in enumerate((2.0, 2.5, 3.0))]
    baseline, clip = group(runs)
    assert clip.reduction(baseline) == 50.0
    assert baseline.reduction(baseline) is None


def test_best_is_the_smallest_or_the_largest_and_never_one_that_diverged() -> None:
    low = group([record(held_out=[3.0]), clipped("a", held_out=[2.0]), clipped("b", loss=[1.0, NAN])])
    assert best_of(low).label == "a"  # type: ignore[union-attr]
    high = group(
        [
            clipped(name, held_out=[v], metric="f1", lower_is_better=False)
            for name, v in (("a", 0.2), ("b", 0.9))
        ]
    )
    assert best_of(high).label == "b"  # type: ignore[union-attr]
    assert best_of(group([record(loss=[NAN])])) is None


def test_at_a_tie_the_first_is_best() -> None:
    groups = group([record(held_out=[2.0]), clipped(held_out=[2.0])])
    assert best_of(groups) is groups[0]
