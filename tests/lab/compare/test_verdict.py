"""One test for each rule of the verdict."""

import math
from dataclasses import replace

import pytest

from clipwise.lab.compare.groups import group
from clipwise.lab.compare.verdict import headline, verdict
from clipwise.lab.record import RunRecord
from tests.lab.records import clipped, record

NAN = math.nan
FIRING = {"norm": [1.0, 1.0, 0.1, 0.1]}  # half of the steps exceed the threshold of 0.5
AUTO = {"label": "auto", "role": "auto", **FIRING}


def said(*runs: RunRecord) -> list[str]:
    return verdict(group(runs))


def test_the_baseline_diverged() -> None:
    lines = said(record(loss=[4.0] * 36 + [NAN]), clipped(held_out=[2.452], **FIRING))
    assert lines[0] == "Without clipping the run diverged at step 37 (loss NaN)."
    assert (
        lines[1] == "clip_by_global_norm(0.5) ended at 2.452 bits, where the run without clipping diverged."
    )


def test_the_baseline_blew_up() -> None:
    (line,) = said(record(loss=[1.0, 1e9, 3e17], held_out=[1e17]))
    assert line == "Without clipping the run diverged at step 2 (loss 3e+17, from 1)."


def test_the_baseline_broke_its_weights() -> None:
    (line,) = said(record(held_out=[NAN]))
    assert line == "Without clipping the run diverged at step 4 (weights no longer finite)."


def test_the_baseline_learned_nothing() -> None:
    (line,) = said(record(loss=[4.0, 5.0, 5.5], held_out=[7.9]))
    assert line == (
        "Without clipping nothing was learned: the training loss ended at 5.5, it began at 4 (7.9 bits)."
    )


def test_some_seeds_of_the_baseline_diverged() -> None:
    runs = [record(seed=s, loss=[4.0, 3.0, end], held_out=[3.0]) for s, end in enumerate((2.0, NAN, NAN))]
    for run in runs[1:]:
        run.evaluations.clear()
    assert said(*runs)[0] == "Without clipping 2 of 3 runs diverged, the first at step 3 (loss NaN)."


def test_better_than_without() -> None:
    lines = said(record(held_out=[8.0]), clipped(held_out=[2.4], **AUTO))
    assert lines[0] == "Without clipping the run ended at 8 bits."
    assert lines[1] == "auto ended at 2.4 bits, 70 % lower than without clipping (8 bits)."
    assert lines[-2] == "Best: auto with 2.4 bits."


def test_better_where_more_is_better() -> None:
    kind = {"metric": "f1", "lower_is_better": False}
    lines = said(record(held_out=[0.5], **kind), clipped(held_out=[0.6], **AUTO, **kind))
    assert lines[1] == "auto ended at F1 0.6, 20 % less error (1 - F1) than without clipping (F1 0.5)."


def test_clipping_hurt() -> None:
    lines = said(record(held_out=[2.0]), clipped(held_out=[3.0], **AUTO))
    assert lines[1] == "Clipping hurt: auto ended at 3 bits, 50 % higher than without clipping (2 bits)."
    assert lines[2] == "No clip did better than none."
    lines = said(record(held_out=[2.0]), clipped(held_out=[2.01], **FIRING), clipped(held_out=[3.0], **AUTO))
    assert "No clip did better than none." in lines


def test_clipping_made_no_difference() -> None:
    lines = said(record(held_out=[2.0]), clipped(held_out=[2.01], **AUTO))
    assert lines[1] == "auto ended at 2.01 bits, no different from the run without clipping (2 bits)."
    assert not any(line.startswith(("Best", "No clip")) for line in lines)


def test_never_fired_and_the_same_run() -> None:
    path = {"norm": [3.0, 1.0, 3.15, 2.0], "held_out": [2.0]}
    lines = said(record(**path), clipped("clip_by_global_norm(5.0)", threshold=5.0, **path))
    assert lines[1] == (
        "clip_by_global_norm(5.0) never clipped: the largest norm was 3.15; it is the same run as without"
        " clipping."
    )


def test_never_fired_and_yet_another_run() -> None:
    lines = said(
        record(held_out=[2.0]), clipped("clip_by_global_norm(5.0)", threshold=5.0, loss=[4.0, 3.0, 2.0, 1.1])
    )
    assert lines[1].endswith("a difference from the run without clipping has other causes.")


def test_never_fired_by_tensor_does_not_compare_the_joint_norm_with_the_threshold() -> None:
    (line,) = said(
        clipped("clip_by_norm(1.0)", threshold=1.0, norm=[1.2] * 4, fraction=[0.0] * 4, held_out=[2.0])
    )
    assert line == (
        "clip_by_norm(1.0) never clipped: no single group reached its threshold (the largest norm of all"
        " gradients together was 1.2); it ended at 2 bits."
    )


def test_a_clip_that_clipped_once_did_clip() -> None:
    lines = said(record(held_out=[2.0]), clipped(norm=[0.1, 0.1, 0.1, 0.6], held_out=[1.0]))
    assert not any("never clipped" in line for line in lines)


def test_nearly_normalised() -> None:
    lines = said(clipped(norm=[1.0] * 99 + [0.1], loss=[1.0] * 100, held_out=[2.0]))
    assert lines[1] == (
        "clip_by_global_norm(0.5) clips 99 % of the steps: the gradient is nearly normalised, and the"
        " threshold acts as a learning rate."
    )


def test_a_threshold_of_zero_takes_everything() -> None:
    lines = said(clipped("clip_by_global_norm(0.0)", threshold=0.0, held_out=[2.0]))
    assert lines[1] == (
        "clip_by_global_norm(0.0): a threshold of 0 makes every gradient 0: nothing is learned."
    )
    assert not any("normalised" in line for line in lines)


def test_a_run_that_diverged_is_not_said_to_be_normalised() -> None:
    lines = said(clipped(loss=[1.0, 1.0, NAN], norm=[1.0] * 3))
    assert lines[0].startswith("clip_by_global_norm(0.5) diverged")
    assert not any("normalised" in line for line in lines)


def test_nearly_every_entry_clipped_leaves_the_signs() -> None:
    lines = said(clipped("clip_by_value(0.5)", fraction=[0.95] * 4, held_out=[2.0]))
    assert lines[1] == "clip_by_value(0.5) clips 95 % of the entries: little more than their signs is left."


def test_four_of_five_steps_are_not_nearly_all() -> None:
    lines = said(clipped(loss=[1.0] * 5, norm=[1.0] * 4 + [0.1], held_out=[2.0]))
    assert not any("normalised" in line for line in lines)


def test_skipped_steps_are_said() -> None:
    start = "clip_by_global_norm(0.5) skipped 3 of 4 steps, whose gradient was NaN"
    lines = said(clipped(held_out=[2.0], skipped_steps=3, norm=[NAN, NAN, NAN, 1.0]))
    assert f"{start} or infinite." in lines
    lines = said(clipped(held_out=[2.0], skipped_steps=3, **FIRING))
    assert f"{start}, infinite or above the threshold." in lines


def test_a_clip_that_diverged_too() -> None:
    lines = said(record(loss=[1.0, NAN]), clipped(loss=[1.0, 1.0, NAN], norm=[1.0, 1.0, NAN]))
    assert lines[1] == "clip_by_global_norm(0.5) diverged too at step 3 (loss NaN)."
    assert lines[-2].startswith("Every run diverged: none of these clips is enough")


def test_interrupted() -> None:
    lines = said(record(held_out=[2.0]), clipped(loss=[2.0, 1.0], interrupted=True, norm=[1.0, 0.1]))
    assert lines[1] == "clip_by_global_norm(0.5) was interrupted after 2 steps."


def test_one_seed_is_said_to_be_one_and_several_are_not() -> None:
    assert said(record(held_out=[2.0]), clipped(held_out=[1.0]))[-1].startswith("One seed:")
    runs = [make(seed=s, held_out=[2.0 + s]) for s in range(2) for make in (record, clipped)]
    assert not any(line.startswith("One seed:") for line in said(*runs))


def test_overlapping_seeds_may_be_chance() -> None:
    runs = [record(seed=s, held_out=[v]) for s, v in enumerate((2.0, 3.0))]
    runs += [clipped(seed=s, held_out=[v], **FIRING) for s, v in enumerate((1.9, 2.5))]
    assert said(*runs)[1].endswith("(2.5 bits); the seeds overlap, so this may be chance.")
    for run in runs[2:]:
        run.evaluations[-1].metrics["bits"] -= 1.0
    assert "chance" not in said(*runs)[1]


def test_close_to_the_best_is_said() -> None:
    lines = said(record(held_out=[8.0]), clipped(held_out=[2.0], **FIRING), clipped(held_out=[2.01], **AUTO))
    assert lines[-2] == "Best: clip_by_global_norm(0.5) with 2 bits, and auto within 1 % of it."


@pytest.mark.parametrize(
    ("runs", "expected"),
    [
        ([record(held_out=[8.0]), clipped(held_out=[2.0], **AUTO)],
         "auto: 2 bits, 75 % lower than without clipping"),
        ([record(loss=[1.0, NAN]), clipped(held_out=[2.0])],
         "clip_by_global_norm(0.5): 2 bits; without clipping the run diverged"),
        ([record(held_out=[2.0]), clipped(held_out=[3.0])],
         "No clip did better than none: 2 bits without clipping"),
        ([record(held_out=[2.0]), clipped(held_out=[2.0])],
         "Clipping made no difference here: 2 bits without clipping"),
        ([record(held_out=[2.0]), clipped(held_out=[2.01]), clipped(held_out=[3.0], **AUTO)],
         "No clip did better than none: 2 bits without clipping"),
        ([record(held_out=[2.0]), clipped(held_out=[1.99])],
         "Clipping made no difference here: clip_by_global_norm(0.5) 1.99 bits, no clipping 2 bits"),
        ([record(held_out=[2.0]), clipped(held_out=[1.99]), clipped(held_out=[3.0], **AUTO)],
         "No clip did noticeably better than none: clip_by_global_norm(0.5) 1.99 bits, no clipping 2 bits"),
        ([record(loss=[NAN])], "Every run diverged"),
        ([record(loss=[2.0, 1.0], interrupted=True)], "Interrupted before any run ended"),
        ([clipped(held_out=[2.0])], "clip_by_global_norm(0.5): 2 bits"),
    ],
)  # fmt: skip
def test_headline(runs: list[RunRecord], expected: str) -> None:
    assert headline(group(runs)) == expected


def test_gradients_that_are_a_multiple_of_those_of_another_run() -> None:
    multiple = "At step 1 its gradients are exactly 2 times those of run 'b'."
    runs = [record(held_out=[8.0], seed=s) for s in (3, 4)] + [clipped(held_out=[2.4], **FIRING)]
    *before, last = said(*(replace(run, multiple=multiple) for run in runs))
    assert last == f"no clipping, seed 3: {multiple}"
    assert not any("2 times" in line for line in before)
