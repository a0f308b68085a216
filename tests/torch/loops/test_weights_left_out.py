"""`weights=` and steps that are left out: weights stay as they were, beyond the bound or not."""

import math

import pytest
import torch
from torch import nn

import clipwise
from clipwise import Clip, thresholds

optim = torch.optim
OPTIMIZERS = {
    "sgd": lambda p: optim.SGD(p, lr=1.0),
    "sgd fused": lambda p: optim.SGD(p, lr=1.0, fused=True),
    "adam fused": lambda p: optim.Adam(p, lr=0.5, fused=True),
}
CLIPS = {
    "entries": clipwise.clip_by_value(0.1),
    "units": Clip(0.1, per="unit"),
    "all": Clip(0.1),
    "by what was": Clip(thresholds.mean(0.5), per="tensor"),
    "by itself": Clip(thresholds.relative(0.5), per="element"),
}


def made(optimizer, **settings):
    weight = nn.Parameter(torch.tensor([3.0, 0.0]))
    opt = OPTIMIZERS[optimizer]([weight])
    return weight, opt, clipwise.torch.attach(opt, **settings)


def step(weight, opt, gradient):
    weight.grad = torch.tensor(gradient)
    opt.step()
    return weight.tolist()


@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_is_as_if_it_had_never_been(optimizer, clip):
    weight, opt, clipper = made(optimizer, weights=CLIPS[clip])
    other, plain, _ = made(optimizer, weights=CLIPS[clip])
    assert step(weight, opt, [math.nan, 1.0]) == [3.0, 0.0]
    assert clipper.skipped_steps == 1
    assert clipper.weights.clipped_steps == 0
    assert clipper.weights.report is None or bool(clipper.weights.report.skipped)
    for gradient in ([0.5, 1.0], [0.1, -1.0]):
        assert step(weight, opt, gradient) == step(other, plain, gradient)
        before = weight.tolist()
        assert step(weight, opt, [1.0, math.inf]) == before


def test_when_it_is_vetoed():
    weight, opt, clipper = made("sgd", weights="clip_by_value(0.1)")
    end = clipper.veto(lambda *_: True)
    assert step(weight, opt, [1.0, 1.0]) == [3.0, 0.0]
    end()
    step(weight, opt, [0.0, 0.0])
    assert weight.tolist() == torch.tensor([0.1, 0.0]).tolist()


@pytest.mark.parametrize("nonfinite", ["skip", "propagate"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_by_a_scaler_that_overflows(optimizer, nonfinite):
    weight, opt, _ = made(optimizer, weights="clip_by_value(0.1)", nonfinite=nonfinite)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**100)
    scaler.scale((weight * torch.tensor([1e30, 1.0])).sum()).backward()
    scaler.step(opt)
    scaler.update()
    assert weight.tolist() == [3.0, 0.0]


@pytest.mark.parametrize(("bad", "moves"), [(1, False), (2, True)])
def test_lbfgs_keeps_what_it_reached_before_a_bad_evaluation(bad, moves):
    """Which is bounded, as after every step that moved the weights."""
    weight = nn.Parameter(torch.tensor([3.0, 0.0]))
    opt = optim.LBFGS([weight], lr=0.1, max_iter=4)
    clipwise.torch.attach(opt, weights="clip_by_value(0.1)")
    count = 0

    def closure():
        nonlocal count
        count += 1
        weight.grad = torch.full((2,), math.nan) if count == bad else weight.detach().clone()
        return 0.5 * weight.detach().square().sum()

    opt.step(closure)
    assert weight.tolist() == (torch.tensor([0.1, 0.0]) if moves else torch.tensor([3.0, 0.0])).tolist()


def test_after_a_step_that_raised():
    """What that one moved is none of the next one's business."""
    weight = nn.Parameter(torch.tensor([3.0, 0.0]))
    opt = optim.LBFGS([weight], lr=0.1, max_iter=4)
    clipwise.torch.attach(opt, weights="clip_by_value(0.1)")
    gradients = iter([[1.0, 0.0], None, [math.nan, 0.0]])

    def closure():
        gradient = next(gradients)
        if gradient is None:
            raise RuntimeError("out of memory")
        weight.grad = torch.tensor(gradient)
        return 1.0

    with pytest.raises(RuntimeError, match="out of memory"):
        opt.step(closure)
    before = weight.tolist()
    opt.step(closure)
    assert weight.tolist() == before
