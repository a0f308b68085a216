"""The command to try next follows from what was seen."""

import math

from clipwise.lab.compare.advice import next_command
from clipwise.lab.compare.groups import group
from tests.lab.records import clipped, record

NAN = math.nan
FIRING = {"norm": [1.0, 1.0, 0.1, 0.1]}  # half of the steps exceed the threshold of 0.5


def test_next_after_one_seed_are_three_with_the_same_clips() -> None:
    groups = group([record(held_out=[8.0]), clipped(held_out=[2.0], **FIRING)])
    assert next_command(groups, "a b.json", ["--steps", "9"]) == (
        "clipwise compare 'a b.json' --clip 'clip_by_global_norm(0.5)' --seeds 3 --steps 9"
    )


def test_next_after_several_seeds_is_a_training_with_the_best() -> None:
    runs = [record(seed=s, held_out=[8.0]) for s in range(2)]
    runs += [clipped("zclip", seed=s, held_out=[2.0], **FIRING) for s in range(2)]
    assert next_command(group(runs), "c.json") == "clipwise train c.json --clip zclip"


def test_next_after_a_threshold_that_never_fired_is_a_lower_one() -> None:
    path = {"norm": [3.0] * 4, "held_out": [2.0]}
    runs = [record(**path), clipped("clip_by_global_norm(5.0)", role="configured", threshold=5.0, **path)]
    assert next_command(group(runs), "c.json") == "clipwise compare c.json --clip 'clip_by_global_norm(3)'"


def test_next_after_nothing_but_divergence_is_a_much_lower_threshold() -> None:
    runs = [record(loss=[1.0, NAN], norm=[5.0, NAN]), clipped(loss=[1.0, NAN], norm=[5.0, NAN])]
    assert next_command(group(runs), "c.json") == "clipwise compare c.json --clip 'clip_by_global_norm(0.5)'"


def test_next_after_a_training_is_a_comparison() -> None:
    runs = [clipped(held_out=[2.0], **FIRING)]
    assert next_command(group(runs), "c.json") == "clipwise compare c.json --clip 'clip_by_global_norm(0.5)'"
