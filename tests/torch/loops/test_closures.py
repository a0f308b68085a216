"""Steps that are given a closure: clipped after each of its evaluations."""

import copy
import math

import pytest
import torch

import clipwise
from tests.torch.loops.reference_loops import (
    STEPS,
    THRESHOLD,
    assert_same,
    backward,
    clip_globally,
    make_model,
)

optim = torch.optim
CLIP = clipwise.clip_by_global_norm(THRESHOLD)
OPTIMIZERS = {
    "sgd": lambda p: optim.SGD(p, lr=0.1, momentum=0.9),
    "adam foreach": lambda p: optim.Adam(p, lr=0.01, foreach=True),
    "adamw fused": lambda p: optim.AdamW(p, lr=0.01, fused=True),
    "sgd fused": lambda p: optim.SGD(p, lr=0.1, momentum=0.9, fused=True),
    "nadam": lambda p: optim.NAdam(p, lr=0.01),
}


def closure_of(model, step, by_hand, count=None):
    def closure():
        loss = backward(model, step)
        if by_hand:
            clip_globally(model)
        if count is not None:
            count.append(float(loss.detach()))
        return loss

    return closure


@pytest.mark.parametrize("search", [None, "strong_wolfe"])
def test_lbfgs(search):
    """Many evaluations a step, in the line search too; all on clipped gradients."""
    ours, reference = make_model().double(), make_model().double()
    opt, ref = (
        optim.LBFGS(m.parameters(), lr=0.5, max_iter=4, line_search_fn=search) for m in (ours, reference)
    )
    clipper = clipwise.torch.attach(opt, CLIP)
    seen, expected = [], []
    for step in range(5):
        opt.step(closure_of(ours, step, False, seen))
        ref.step(closure_of(reference, step, True, expected))
    assert_same(ours, reference, rtol=1e-7, atol=1e-9)  # curvature amplifies the last bits
    assert seen == pytest.approx(expected, rel=1e-6)
    assert clipper.steps == len(seen) > 10
    assert 0 < clipper.clipped_steps < clipper.steps


@pytest.mark.parametrize("search", [None, "strong_wolfe"])
def test_lbfgs_goes_on_after_a_bad_evaluation(search):
    model = make_model().double()
    opt = optim.LBFGS(model.parameters(), lr=0.5, max_iter=4, line_search_fn=search)
    clipper = clipwise.torch.attach(opt, CLIP)

    def broken():
        loss = backward(model, 2)
        model[0].weight.grad[0, 0] = math.nan
        return loss

    opt.step(closure_of(model, 2, False))
    before = copy.deepcopy(model)
    opt.step(broken)
    assert_same(model, before, rtol=0, atol=0)
    assert clipper.report.skipped
    opt.step(closure_of(model, 2, False))
    assert all(p.isfinite().all() for p in model.parameters())
    assert not clipper.report.skipped
    with pytest.raises(AssertionError):
        assert_same(model, before)


@pytest.mark.parametrize("by_keyword", [False, True])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_one_evaluation_a_step(optimizer, by_keyword):
    ours, reference = make_model(), make_model()
    opt, ref = (OPTIMIZERS[optimizer](m.parameters()) for m in (ours, reference))
    clipper = clipwise.torch.attach(opt, CLIP)
    for step in range(STEPS):
        closure = closure_of(ours, step, False)
        returned = opt.step(closure=closure) if by_keyword else opt.step(closure)
        expected = ref.step(closure_of(reference, step, True))
        assert returned.item() == pytest.approx(expected.item(), rel=1e-4)
    assert_same(ours, reference)
    assert clipper.steps == STEPS
    assert 0 < clipper.clipped_steps < STEPS
    assert not hasattr(opt, "grad_scale")


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_now_with_a_closure_and_now_without(optimizer):
    ours, reference = make_model(), make_model()
    opt, ref = (OPTIMIZERS[optimizer](m.parameters()) for m in (ours, reference))
    clipwise.torch.attach(opt, CLIP)
    for step in range(STEPS):
        if step % 2:
            opt.step(closure_of(ours, step, False))
        else:
            backward(ours, step)
            opt.step(None)
        ref.step(closure_of(reference, step, True))
    assert_same(ours, reference)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw fused"])
def test_a_closure_that_raises_and_is_given_again(optimizer):
    ours, reference = make_model(), make_model()
    opt, ref = (OPTIMIZERS[optimizer](m.parameters()) for m in (ours, reference))
    clipper = clipwise.torch.attach(opt, CLIP)

    def broken():
        backward(ours, 0)
        raise RuntimeError("out of memory")

    for step in range(STEPS):
        with pytest.raises(RuntimeError, match="out of memory"):
            opt.step(broken)
        opt.step(closure_of(ours, step, False))
        ref.step(closure_of(reference, step, True))
    assert_same(ours, reference)
    assert clipper.steps == STEPS


def test_several_optimizers_whose_first_is_given_a_closure():
    ours, reference = make_model(), make_model()
    pairs = [
        [OPTIMIZERS["sgd"](m[0].parameters()), OPTIMIZERS["adamw fused"](m[2].parameters())]
        for m in (ours, reference)
    ]
    clipper = clipwise.torch.attach(pairs[0], CLIP)
    for step in range(STEPS):
        for model, (first, second) in zip((ours, reference), pairs, strict=True):
            first.step(closure_of(model, step, model is reference))
            second.step()
    assert_same(ours, reference)
    assert clipper.steps == STEPS


def test_the_loss_of_the_closure_reaches_the_threshold():
    model = make_model()
    opt = OPTIMIZERS["adamw fused"](model.parameters())
    policy = clipwise.thresholds.reduce_on_instability(start=1.0, factor=0.5, patience=1)
    clipper = clipwise.torch.attach(opt, clipwise.Clip(policy))
    losses: list[float] = []
    for step in range(2 * STEPS):
        opt.step(closure_of(model, step, False, losses))
    by_hand = clipwise.torch.Clipper(model, clipwise.Clip(policy))
    for loss in losses:
        by_hand.observe(loss)
        by_hand.clip_()
    assert float(clipper.report.threshold) == pytest.approx(float(by_hand.report.threshold))
    assert float(clipper.report.threshold) < 1.0
    assert clipper.steps == len(losses) == 2 * STEPS
