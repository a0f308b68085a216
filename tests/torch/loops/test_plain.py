"""The plain loop: every optimizer, every kind of clip, schedules, accumulation, parameter groups."""

import math

import pytest
import torch
from torch import nn

import clipwise
from tests.torch.loops.reference_loops import (
    STEPS,
    THRESHOLD,
    ClipAtPercentile,
    assert_same,
    backward,
    clip_each,
    clip_globally,
    clip_units,
    clip_values,
    loss_of,
    make_model,
    run_by_hand,
)

pytestmark = pytest.mark.device_path

optim = torch.optim
CLIP = clipwise.clip_by_global_norm(THRESHOLD)

OPTIMIZERS = {
    "sgd": lambda p: optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-2),
    "sgd without momentum": lambda p: optim.SGD(p, lr=0.1),
    "sgd fused": lambda p: optim.SGD(p, lr=0.1, momentum=0.9, fused=True),
    "adam": lambda p: optim.Adam(p, lr=0.01),
    "adam amsgrad fused": lambda p: optim.Adam(p, lr=0.01, amsgrad=True, fused=True),
    "adamw": lambda p: optim.AdamW(p, lr=0.01),
    "adamw foreach": lambda p: optim.AdamW(p, lr=0.01, foreach=True),
    "adamw fused": lambda p: optim.AdamW(p, lr=0.01, fused=True),
    "adamw maximize fused": lambda p: optim.AdamW(p, lr=0.01, maximize=True, fused=True),
    "adagrad": lambda p: optim.Adagrad(p, lr=0.01),
    "adagrad fused": lambda p: optim.Adagrad(p, lr=0.01, fused=True),
    "rmsprop": lambda p: optim.RMSprop(p, lr=0.01, momentum=0.5, centered=True),
    "adadelta": lambda p: optim.Adadelta(p),
    "adamax": lambda p: optim.Adamax(p, lr=0.01),
    "nadam": lambda p: optim.NAdam(p, lr=0.01),
    "radam": lambda p: optim.RAdam(p, lr=0.01),
    "asgd": lambda p: optim.ASGD(p, lr=0.1),
    "rprop": lambda p: optim.Rprop(p, lr=0.01),
    "adafactor": lambda p: optim.Adafactor(p, lr=0.01),
}


def both(make_optimizer):
    ours, reference = make_model(), make_model()
    return ours, make_optimizer(ours.parameters()), reference, make_optimizer(reference.parameters())


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer(name):
    ours, opt, reference, ref = both(OPTIMIZERS[name])
    clipper = clipwise.torch.attach(opt, CLIP, include_normalised=name == "rprop")
    for step in range(STEPS):
        backward(ours, step)
        opt.step()
    clipped = run_by_hand(reference, ref)
    assert_same(ours, reference)
    assert (clipper.steps, clipper.clipped_steps) == (STEPS, clipped)


def clip_in_two(model: nn.Module) -> bool:
    values = clip_values(model, 0.02)
    return clip_globally(model) or values


def clip_by_layer(model: nn.Module) -> bool:
    first = clip_globally(model[0].parameters(), 0.02)
    return clip_each([model[2].weight], 0.01) or first


CLIPS = {
    "value": (clipwise.clip_by_value(0.01), lambda: clip_values),
    "norm": (clipwise.clip_by_norm(THRESHOLD), lambda: clip_each),
    "global norm": (CLIP, lambda: clip_globally),
    "agc": (clipwise.adaptive_grad_clip(0.01), lambda: clip_units),
    "chain": (clipwise.chain(clipwise.clip_by_value(0.02), CLIP), lambda: clip_in_two),
    "by name": (
        clipwise.by_name(
            {"0.*": clipwise.clip_by_global_norm(0.02), "*.weight": clipwise.clip_by_norm(0.01)}
        ),
        lambda: clip_by_layer,
    ),
    "percentile": (clipwise.autoclip(60), lambda: ClipAtPercentile(60)),
}


@pytest.mark.parametrize("name", CLIPS)
@pytest.mark.parametrize("optimizer", ["sgd", "adamw fused", "adamw foreach"])
def test_every_clip(name, optimizer):
    clip, by_hand = CLIPS[name]
    ours, opt, reference, ref = both(OPTIMIZERS[optimizer])
    clipper = clipwise.torch.attach(opt, clip, model=ours)
    for step in range(STEPS):
        backward(ours, step)
        opt.step()
    clipped = run_by_hand(reference, ref, by_hand())
    assert_same(ours, reference)
    assert (clipper.steps, clipper.clipped_steps) == (STEPS, clipped)


SCHEDULES = {
    "cosine": lambda o: optim.lr_scheduler.CosineAnnealingLR(o, STEPS),
    "one cycle": lambda o: optim.lr_scheduler.OneCycleLR(o, 0.1, total_steps=STEPS + 1),
    "warmup": lambda o: optim.lr_scheduler.LambdaLR(o, lambda step: min(1.0, step / 4)),
}


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("optimizer", ["sgd", "adamw fused"])
def test_schedules_of_the_rate(name, optimizer):
    ours, opt, reference, ref = both(OPTIMIZERS[optimizer])
    scheduler, other = SCHEDULES[name](opt), SCHEDULES[name](ref)
    clipwise.torch.attach(opt, CLIP)
    for step in range(STEPS):
        backward(ours, step)
        opt.step()
        scheduler.step()
        backward(reference, step)
        clip_globally(reference)
        ref.step()
        other.step()
    assert_same(ours, reference)


def test_a_rate_in_a_tensor():
    ours, opt, reference, ref = both(lambda p: optim.AdamW(p, lr=torch.tensor(0.01), fused=True))
    clipwise.torch.attach(opt, CLIP)
    for step in range(STEPS):
        backward(ours, step)
        opt.step()
    run_by_hand(reference, ref)
    assert_same(ours, reference)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw fused"])
def test_accumulation_clips_the_sum_once_a_real_step(optimizer):
    ours, opt, reference, ref = both(OPTIMIZERS[optimizer])
    clipper = clipwise.torch.attach(opt, CLIP)
    clipped = 0
    for model, stepping in ((ours, opt), (reference, ref)):
        for step in range(4 * STEPS):
            # One micro-batch alone would be clipped where the sum of four is not, and the other way round.
            sign = 1.0 if step // 4 % 2 else (-1.0) ** step
            (sign * loss_of(model, step // 8)).backward()
            if step % 4 == 3:
                clipped += clip_globally(model) if model is reference else 0
                stepping.step()
                stepping.zero_grad()
    assert_same(ours, reference)
    assert (clipper.steps, clipper.clipped_steps) == (STEPS, clipped)
    assert 0 < clipped < STEPS


@pytest.mark.parametrize("optimizer", ["sgd", "adamw fused"])
def test_parameter_groups_with_rates_of_their_own_have_one_norm(optimizer):
    def make(parameters):
        parameters = list(parameters)
        made = OPTIMIZERS[optimizer]([{"params": parameters[:2], "lr": 0.3}, {"params": parameters[2:]}])
        made.param_groups[1]["lr"] = 0.003
        return made

    ours, opt, reference, ref = both(make)
    clipwise.torch.attach(opt, CLIP)
    for step in range(STEPS):
        backward(ours, step)
        opt.step()
    run_by_hand(reference, ref)
    assert_same(ours, reference)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw fused", "rmsprop"])
def test_frozen_parameters_stay_and_do_not_count(optimizer):
    ours, opt, reference, ref = both(OPTIMIZERS[optimizer])
    clipwise.torch.attach(opt, CLIP)
    for step in range(STEPS):
        for model, stepping in ((ours, opt), (reference, ref)):
            model[0].requires_grad_(step % 2 == 0)
            backward(model, step)
            if model is reference:
                clip_globally(model)
            stepping.step()
    assert_same(ours, reference)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "adamw fused"])
def test_a_threshold_of_inf_changes_no_bit(optimizer):
    ours, opt, reference, ref = both(OPTIMIZERS[optimizer])
    clipper = clipwise.torch.attach(opt, clipwise.clip_by_global_norm(math.inf))
    for step in range(STEPS):
        for model, stepping in ((ours, opt), (reference, ref)):
            backward(model, step)
            stepping.step()
    for p, q in zip(ours.parameters(), reference.parameters(), strict=True):
        assert torch.equal(p, q)
    assert clipper.clipped_steps == 0
