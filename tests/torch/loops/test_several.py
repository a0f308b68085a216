"""Several optimizers attached together: one joint norm, whoever steps first."""

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
    clip_globally,
    loss_of,
    make_model,
)

pytestmark = pytest.mark.device_path

optim = torch.optim
CLIP = clipwise.clip_by_global_norm(THRESHOLD)
KINDS = {
    "sgd": lambda p: optim.SGD(p, lr=0.1, momentum=0.9),
    "adam": lambda p: optim.Adam(p, lr=0.01),
    "fused": lambda p: optim.AdamW(p, lr=0.01, fused=True),
    "fused sgd": lambda p: optim.SGD(p, lr=0.1, momentum=0.9, fused=True),
}
PAIRS = [("sgd", "adam"), ("fused", "sgd"), ("adam", "fused"), ("fused sgd", "fused")]


def two(kinds, seed=0):
    model = make_model(seed)
    return model, [
        KINDS[kind](layer.parameters()) for kind, layer in zip(kinds, (model[0], model[2]), strict=True)
    ]


@pytest.mark.parametrize("kinds", PAIRS)
@pytest.mark.parametrize("orders", [((0, 1),), ((1, 0),), ((0, 1), (1, 0))], ids=["ab", "ba", "in turn"])
def test_a_joint_norm_in_any_order(kinds, orders):
    (ours, ours_two), (reference, reference_two) = two(kinds), two(kinds)
    clipper = clipwise.torch.attach(ours_two, clipwise.autoclip(60), model=ours)
    by_hand, clipped = ClipAtPercentile(60), 0
    for step in range(STEPS):
        backward(ours, step)
        backward(reference, step)
        clipped += by_hand(reference)
        for which in orders[step % len(orders)]:
            ours_two[which].step()
            reference_two[which].step()
    assert_same(ours, reference)
    assert (clipper.steps, clipper.clipped_steps) == (STEPS, clipped)
    assert 0 < clipped < STEPS


@pytest.mark.parametrize("kinds", PAIRS)
@pytest.mark.parametrize("accumulate", [False, True])
def test_one_that_steps_twice(kinds, accumulate):
    """A new backward between the two steps: what the second is about to use is clipped anew, jointly."""
    (ours, ours_two), (reference, reference_two) = two(kinds), two(kinds)
    clipper = clipwise.torch.attach(ours_two, CLIP)
    for step in range(STEPS):
        for model, (first, second) in ((ours, ours_two), (reference, reference_two)):
            for again in (False, True):
                if again and accumulate:
                    loss_of(model, step + 7).backward()
                else:
                    backward(model, step + 7 * again)
                if model is reference:
                    clip_globally(model)
                first.step()
            second.step()
    assert_same(ours, reference)
    assert clipper.steps == 2 * STEPS


@pytest.mark.parametrize("kinds", PAIRS)
@pytest.mark.parametrize("in_place", [False, True])
def test_gradients_that_change_before_the_second_steps(kinds, in_place):
    (ours, ours_two), (reference, reference_two) = two(kinds), two(kinds)
    clipwise.torch.attach(ours_two, CLIP)
    for step in range(STEPS):
        for model, pair in ((ours, ours_two), (reference, reference_two)):
            for which, stepping in enumerate(pair):
                model.zero_grad(set_to_none=not in_place)
                loss_of(model, step + 5 * which).backward()
                if model is reference:
                    clip_globally(model)
                stepping.step()
    assert_same(ours, reference)


@pytest.mark.parametrize("kinds", PAIRS)
@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
@pytest.mark.parametrize("unscaled", [(), (0,), (1,), (0, 1)], ids=["none", "a", "b", "both"])
def test_under_a_scaler(kinds, order, unscaled):
    (ours, ours_two), (reference, reference_two) = two(kinds), two(kinds)
    scalers = [torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=3) for _ in range(2)]
    clipper = clipwise.torch.attach(ours_two, CLIP)
    clipped = 0
    for step in range(STEPS):
        for model, pair, scaler in zip((ours, reference), (ours_two, reference_two), scalers, strict=True):
            model.zero_grad()
            scaler.scale(loss_of(model, step)).backward()
            for which in unscaled if model is ours else (0, 1):
                scaler.unscale_(pair[which])
            clipped += clip_globally(model) if model is reference else 0
            for which in order:
                scaler.step(pair[which])
                assert not hasattr(pair[which], "grad_scale")
                assert not hasattr(pair[which], "found_inf")
            scaler.update()
    assert_same(ours, reference)
    assert scalers[0].state_dict() == scalers[1].state_dict()
    assert (clipper.steps, clipper.clipped_steps) == (STEPS, clipped)


@pytest.mark.parametrize("kinds", PAIRS)
@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
@pytest.mark.parametrize("bad", [0, 2], ids=["in a", "in b"])
@pytest.mark.parametrize("scaled", [False, True])
def test_nan_in_one_skips_both(kinds, order, bad, scaled):
    (ours, ours_two), (reference, reference_two) = two(kinds), two(kinds)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, enabled=scaled)
    clipper = clipwise.torch.attach(ours_two, CLIP, model=ours)
    clipped = 0
    for step in range(STEPS):
        before = [p.detach().clone() for p in ours.parameters()]
        ours.zero_grad()
        scaler.scale(loss_of(ours, step)).backward()
        if step == 4:
            ours[bad].bias.grad[1] = math.inf
        for which in order:
            scaler.step(ours_two[which])
        scaler.update()
        if step == 4:
            assert all(torch.equal(p, q) for p, q in zip(ours.parameters(), before, strict=True))
            assert all(p.grad is not None for p in ours.parameters())
            assert clipper.report.skipped
            assert clipper.report.worst == f"{bad}.bias"
            continue
        backward(reference, step)
        clipped += clip_globally(reference)
        for which in order:
            reference_two[which].step()
    assert_same(ours, reference)
    assert (clipper.skipped_steps, clipper.clipped_steps) == (1, clipped)
    assert scaler.get_scale() == (2.0**9 if scaled else 1.0)


@pytest.mark.parametrize("kinds", PAIRS)
def test_a_parameter_that_two_optimizers_share_is_measured_once(kinds):
    def build():
        model = make_model()
        shared, rest = [model[0].weight], [model[0].bias, *model[2].parameters()]
        return model, [KINDS[kinds[0]](shared + rest[:1]), KINDS[kinds[1]](shared + rest[1:])]

    (ours, ours_two), (reference, reference_two) = build(), build()
    clipper = clipwise.torch.attach(ours_two, CLIP)
    for step in range(STEPS):
        for model, pair in ((ours, ours_two), (reference, reference_two)):
            backward(model, step)
            norm = math.sqrt(sum(p.grad.double().square().sum().item() for p in model.parameters()))
            if model is reference:
                clip_globally(model)
            for which, stepping in enumerate(pair):
                stepping.step()
                if which == 0 and model is ours:
                    assert float(clipper.report.norm) == pytest.approx(norm, rel=1e-6)
    assert_same(ours, reference)


def test_a_step_that_all_of_them_leave_out_is_no_hindrance_to_the_next():
    """One of them has no gradient in some steps, and does not step in others."""
    (ours, ours_two), (reference, reference_two) = two(("sgd", "adam")), two(("sgd", "adam"))
    clipwise.torch.attach(ours_two, CLIP)
    for step in range(STEPS):
        for model, pair in ((ours, ours_two), (reference, reference_two)):
            backward(model, step)
            if step % 3 == 1:
                model[2].zero_grad()
            if model is reference:
                clip_globally(model)
            pair[0].step()
            if step % 4:
                pair[1].step()
    assert_same(ours, reference)


def test_each_attached_by_itself_has_its_own_norm():
    (ours, ours_two), (reference, reference_two) = two(("sgd", "adam")), two(("sgd", "adam"))
    for stepping in ours_two:
        clipwise.torch.attach(stepping, CLIP)
    for step in range(STEPS):
        for model, pair in ((ours, ours_two), (reference, reference_two)):
            backward(model, step)
            for stepping, layer in zip(pair, (model[0], model[2]), strict=True):
                if model is reference:
                    clip_globally(layer)
                stepping.step()
    assert_same(ours, reference)


def test_three_of_them():
    def build():
        model = nn.Sequential(*make_model(), nn.Linear(3, 2))
        kinds = zip(KINDS, (model[0], model[2], model[3]), strict=False)
        return model, [KINDS[kind](layer.parameters()) for kind, layer in kinds]

    (ours, ours_three), (reference, reference_three) = build(), build()
    clipper = clipwise.torch.attach(ours_three, CLIP)
    for step in range(STEPS):
        for model, three in ((ours, ours_three), (reference, reference_three)):
            backward(model, step)
            if model is reference:
                clip_globally(model)
            for stepping in three:
                stepping.step()
    # torch.manual_seed in make_model makes the last layers alike too.
    assert_same(ours, reference)
    assert clipper.steps == STEPS
