"""`weights=` with several optimizers: after each one's step its own weights, and one step counts once."""

import pytest
import torch
from torch import nn

import clipwise
from clipwise import Clip, thresholds
from tests.torch.loops.reference_loops import STEPS, assert_same, backward
from tests.torch.loops.test_several import KINDS, two
from tests.torch.loops.test_weights import bound_units, bound_values

PAIR = ("sgd", "fused")


@pytest.mark.parametrize(
    ("clip", "bound"),
    [
        (Clip(thresholds.linear(0.3, 0.1, STEPS), per="element"), bound_values),
        (Clip(thresholds.linear(0.5, 0.3, STEPS), per="unit"), bound_units),
    ],
    ids=["entries", "units"],
)
@pytest.mark.parametrize("turns", [(0, 1), (1, 0), (0, 0, 1)], ids=str)
def test_each_after_its_own_step(turns, clip, bound):
    """A schedule goes on with the steps that are clipped jointly, of which two in a row by one are two."""
    (ours, ours_two), (reference, reference_two) = two(PAIR), two(PAIR)
    clipper = clipwise.torch.attach(ours_two, model=ours, weights=clip)
    layers = (reference[0], reference[2])
    count = 0
    for step in range(STEPS):
        for place, which in enumerate(turns):
            again = place > 0 and which == turns[place - 1]
            if place == 0 or again:
                backward(ours, step + place)
                backward(reference, step + place)
                count += 1
            ours_two[which].step()
            reference_two[which].step()
            policy = clip.threshold
            done = min((count - 1) / STEPS, 1.0)
            bound(layers[which], policy.start + (policy.stop - policy.start) * done)
            assert_same(ours, reference)
            assert clipper.weights.report.names == tuple(
                f"{(0, 2)[which]}.{name}" for name, _ in layers[which].named_parameters()
            )
    assert clipper.steps == clipper.weights.steps == count
    assert clipper.weights.clipped_steps == count


def test_what_has_not_moved_is_left_alone():
    a, b = (nn.Parameter(torch.tensor([10.0])) for _ in range(2))
    first, second = KINDS["sgd"]([a]), KINDS["sgd"]([b])
    clipper = clipwise.torch.attach([first, second], weights="clip_by_value(0.5)")
    a.grad, b.grad = torch.zeros(1), torch.zeros(1)
    first.step()
    assert (a.item(), b.item()) == (0.5, 10.0)
    assert float(clipper.weights.report.at_bound) == 1.0
    second.step()
    assert (a.item(), b.item()) == (0.5, 0.5)
    assert (clipper.steps, clipper.weights.steps, clipper.weights.clipped_steps) == (1, 1, 1)


def test_a_step_that_all_leave_out():
    a, b = (nn.Parameter(torch.tensor([10.0])) for _ in range(2))
    pair = [KINDS["sgd"]([a]), KINDS["fused"]([b])]
    clipper = clipwise.torch.attach(pair, weights="clip_by_value(0.5)")
    a.grad, b.grad = torch.tensor([torch.nan]), torch.zeros(1)
    for optimizer in pair:
        optimizer.step()
    assert (a.item(), b.item()) == (10.0, 10.0)
    assert clipper.weights.steps == 0


def test_by_name():
    model, pair = two(PAIR)
    clip = clipwise.by_name({"0.*": clipwise.clip_by_value(0.1), "2.weight": Clip(0.2), "*": None})
    clipper = clipwise.torch.attach(pair, model=model, weights=clip)
    backward(model, 0)
    for optimizer in pair:
        optimizer.step()
    assert all((p.abs() <= 0.1 + 1e-8).all() for p in model[0].parameters())
    assert model[2].weight.norm().item() == pytest.approx(0.2, rel=1e-6)
    assert clipper.weights.report.names == ("2.weight", "2.bias")
