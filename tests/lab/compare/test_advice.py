"""The command to try next follows from what was seen."""

import math
import shlex

import pytest

from clipwise.lab.compare.advice import next_command
from clipwise.lab.compare.groups import group
from clipwise.lab.record import RunRecord
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
    assert next_command(group(runs[:1]), "c.json").endswith("c.json --clip 'clip_by_global_norm(0.5)'")
    assert next_command(group(runs), "c.json") == (
        "clipwise compare c.json --clip 'clip_by_global_norm(0.5)' --clip 'clip_by_global_norm(0.05)'"
    )


def test_next_after_a_training_is_a_comparison() -> None:
    runs = [clipped(held_out=[2.0], **FIRING)]
    assert next_command(group(runs), "c.json") == "clipwise compare c.json --clip 'clip_by_global_norm(0.5)'"


@pytest.mark.parametrize("clip", [None, "auto", "clip_by_global_norm(9.0)"])
def test_no_clip_is_named_that_a_comparison_has_anyway(clip: str | None) -> None:
    role = {None: "baseline", "auto": "auto"}.get(clip, "configured")
    runs = [record(label=str(clip), clip=clip, role=role, held_out=[2.0], threshold=0.5)]
    assert next_command(group(runs), "c.json") == "clipwise compare c.json"


def test_the_training_without_clipping_names_none_only_against_a_configured_clip() -> None:
    runs = [record(seed=s, held_out=[2.0]) for s in range(2)]
    runs += [clipped(seed=s, role="auto", held_out=[3.0], **FIRING) for s in range(2)]
    assert next_command(group(runs), "c.json") == "clipwise train c.json"
    for run in runs[2:]:
        run.role = "configured"
    assert next_command(group(runs), "c.json") == "clipwise train c.json --clip none"


def test_several_seeds_are_kept_where_a_clip_never_fired() -> None:
    runs = [
        clipped("clip_by_global_norm(5.0)", "given", seed=s, threshold=5.0, held_out=[2.0]) for s in range(2)
    ]
    assert next_command(group(runs), "c.json") == (
        "clipwise compare c.json --clip 'clip_by_global_norm(5.0)' --clip 'clip_by_global_norm(1)' --seeds 2"
    )


def follow(command: str, norm: float, loss: float) -> list[RunRecord]:
    """Runs as the command asks for, of a configuration with a clip at 5, each norm and last loss the same."""
    words = shlex.split(command)
    options = list(zip(words[3::2], words[4::2], strict=True))
    clips = [value for name, value in options if name == "--clip"]
    thresholds = {clip: float(clip.removesuffix(")").split("(")[1]) for clip in clips}
    path = {"loss": [1.0, 1.0, loss], "norm": [norm] * 3, "held_out": [2.0, 2.0, 2.0 if loss == 1.0 else NAN]}
    runs = []
    for seed in range(int(dict(options).get("--seeds", "1"))):
        runs.append(record(seed=seed, **path))
        runs.append(clipped("clip_by_global_norm(5.0)", "configured", seed=seed, threshold=5.0, **path))
        runs += [clipped(clip, seed=seed, threshold=t * 0.99, **path) for clip, t in thresholds.items()]
    return runs


@pytest.mark.parametrize(("loss", "kinds"), [(1.0, 3), (NAN, 4)], ids=["never fires", "all diverge"])
def test_who_follows_the_advice_is_never_told_the_same_again(loss: float, kinds: int) -> None:
    command, seen = "clipwise compare c.json", []
    for _ in range(kinds):
        assert command not in seen
        seen.append(command)
        command = next_command(group(follow(command, 1.5, loss)), "c.json")
        before, after = (
            [w for w in shlex.split(line) if w.startswith("clip_by")] for line in (seen[-1], command)
        )
        assert after[: len(before)] == before or command.startswith("clipwise train")
        assert len(after) == len(set(after))
    assert command not in seen
    assert command.startswith("clipwise train" if loss == 1.0 else "clipwise compare")
