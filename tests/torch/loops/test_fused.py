"""Fused optimizers: the coefficient goes with the step, and nobody can tell."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import clipwise
from clipwise.torch import _measure
from tests.torch.loops.reference_loops import (
    STEPS,
    THRESHOLD,
    assert_same,
    backward,
    clip_globally,
    gradients_of,
    loss_of,
    make_model,
    norm_of,
    run_by_hand,
    scale,
)

pytestmark = pytest.mark.device_path

optim = torch.optim
CLIP = clipwise.clip_by_global_norm(THRESHOLD)
OPTIMIZERS = {
    "sgd": lambda p: optim.SGD(p, lr=0.1, momentum=0.9, fused=True),
    "adam": lambda p: optim.Adam(p, lr=0.01, fused=True),
    "adamw": lambda p: optim.AdamW(p, lr=0.01, fused=True),
    "adagrad": lambda p: optim.Adagrad(p, lr=0.01, fused=True),
}


def told(opt):
    return [name for name in ("grad_scale", "found_inf") if hasattr(opt, name)]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_gradients_after_the_step_are_the_clipped_ones(name):
    model, reference = make_model(), make_model()
    opt = OPTIMIZERS[name](model.parameters())
    clipper = clipwise.torch.attach(opt, CLIP)
    for step in range(STEPS):
        reference.load_state_dict(model.state_dict())
        backward(model, step)
        opt.step()
        backward(reference, step)
        clipped = clip_globally(reference)
        for ours, theirs in zip(gradients_of(model), gradients_of(reference), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=3e-7 if clipped else 0, atol=0)
        assert told(opt) == []
    assert clipper.steps == STEPS


@pytest.mark.parametrize(
    ("dtype", "entries", "folds"), [("float32", 64, True), ("float32", 65, False), ("bfloat16", 1, False)]
)
def test_on_the_cpu_only_large_float32_gradients_are_left_to_the_optimizer(
    dtype, entries, folds, engine, monkeypatch
):
    """Small ones are multiplied at once, which costs less there; on a device nobody can tell them apart."""
    monkeypatch.setattr(_measure, "FOLDS_FROM", entries)
    weight = nn.Parameter(torch.zeros(64, dtype=getattr(torch, dtype)))
    opt = optim.AdamW([weight], fused=True)
    clipwise.torch.attach(opt, clipwise.clip_by_global_norm(1.0))
    weight.grad = torch.ones_like(weight)
    seen = []
    original = opt._init_group

    def look(*args, **kwargs):
        seen.append(hasattr(opt, "grad_scale"))
        return original(*args, **kwargs)

    opt._init_group = look
    opt.step()
    assert seen == [folds or engine == "foreach"]
    torch.testing.assert_close(weight.grad, torch.full_like(weight, 0.125), rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_clip_itself_writes_no_gradient(name):
    """No second pass: at the time of the step they are still as backward left them."""
    model = make_model()
    opt = OPTIMIZERS[name](model.parameters())
    clipwise.torch.attach(opt, CLIP)
    backward(model, 2)
    opt.step()  # the first
    backward(model, 2)
    versions = [g._version for g in gradients_of(model)]
    before = [g.clone() for g in gradients_of(model)]
    seen = []
    original = opt._init_group if hasattr(opt, "_init_group") else None

    def look(*args, **kwargs):
        seen.append([torch.equal(g, b) for g, b in zip(gradients_of(model), before, strict=True)])
        seen.append([g._version == v for g, v in zip(gradients_of(model), versions, strict=True)])
        return original(*args, **kwargs)

    opt._init_group = look
    opt.step()
    assert seen == [[True] * 4] * 2
    assert norm_of(gradients_of(model)) == pytest.approx(THRESHOLD, rel=1e-6)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_step_that_raises_and_is_tried_again(name):
    """Sparse gradients are none of a fused step's; the next one is as if nothing had been."""
    ours, reference = make_model(), make_model()
    opt, ref = (OPTIMIZERS[name](m.parameters()) for m in (ours, reference))
    clipwise.torch.attach(opt, CLIP)
    for step in range(STEPS):
        backward(ours, step)
        dense = [p.grad.clone() for p in ours.parameters()]
        if step % 3:
            ours[2].weight.grad = ours[2].weight.grad.to_sparse()
            with pytest.raises((RuntimeError, NotImplementedError)):
                opt.step()
            for p, gradient in zip(ours.parameters(), dense, strict=True):
                p.grad = gradient
        opt.step()
        assert told(opt) == []
        backward(reference, step)
        clip_globally(reference)
        ref.step()
    assert_same(ours, reference)


@pytest.mark.parametrize("name", ["adam", "sgd"])
def test_a_step_under_a_scaler_that_raises_before_one_that_overflows(name):
    """What the scaler says of the new gradients counts, not what it said before the step that raised."""
    model = make_model()
    opt = OPTIMIZERS[name](model.parameters())
    clipwise.torch.attach(opt, CLIP, nonfinite="propagate")
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    for fails in (False, True, False):
        opt.zero_grad()
        scaler.scale(loss_of(model, 2)).backward()
        if fails:
            model[2].weight.grad = model[2].weight.grad.to_sparse()
            with pytest.raises((RuntimeError, NotImplementedError)):
                scaler.step(opt)
        else:
            scaler.step(opt)
        scaler.update()
        if fails:
            break
    before = [p.detach().clone() for p in model.parameters()]
    opt.zero_grad()
    scaler.scale(loss_of(model, 2)).backward()
    model[0].weight.grad[0, 0] = math.inf
    scaler.step(opt)
    scaler.update()
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_grad_scale_of_the_users_own(name):
    """Set for good, as torch allows: gradients are divided by it, and the true ones clipped."""
    ours, reference = make_model(), make_model()
    opt, ref = (OPTIMIZERS[name](m.parameters()) for m in (ours, reference))
    opt.grad_scale = torch.tensor(8.0)
    clipper = clipwise.torch.attach(opt, CLIP)
    for step in range(STEPS):
        opt.zero_grad()
        (8.0 * loss_of(ours, step)).backward()
        opt.step()
        assert float(opt.grad_scale) == 8.0
        assert told(opt) == ["grad_scale"]
    clipped = run_by_hand(reference, ref)
    assert_same(ours, reference)
    assert clipper.clipped_steps == clipped


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_a_hook_that_comes_after_sees_clipped_gradients(name):
    ours, reference = make_model(), make_model()
    opt, ref = (OPTIMIZERS[name](m.parameters()) for m in (ours, reference))
    clipper = clipwise.torch.attach(opt, CLIP)
    norms = []
    opt.register_step_pre_hook(lambda *_: norms.append(norm_of(gradients_of(ours))))
    for step in range(STEPS):
        backward(ours, step)
        opt.step()
        assert norms[-1] == pytest.approx(float(clipper.report.norm_after), rel=1e-6)
    run_by_hand(reference, ref)
    assert_same(ours, reference)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_what_a_hook_that_was_there_before_did_to_the_gradients_is_clipped(name):
    ours, reference = make_model(), make_model()
    opt, ref = (OPTIMIZERS[name](m.parameters()) for m in (ours, reference))

    def enlarge(*_):
        for gradient in gradients_of(ours):
            scale(gradient, 3.0)

    opt.register_step_pre_hook(enlarge)
    clipwise.torch.attach(opt, CLIP)
    for step in range(STEPS):
        backward(ours, step)
        opt.step()
        backward(reference, step)
        for gradient in gradients_of(reference):
            scale(gradient, 3.0)
        clip_globally(reference)
        ref.step()
    assert_same(ours, reference)


@pytest.mark.parametrize(
    "clip", [CLIP, clipwise.clip_by_norm(THRESHOLD), clipwise.clip_by_value(0.01)], ids=repr
)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_nan_leaves_parameters_state_and_the_other_gradients_alone(name, clip):
    model = make_model()
    opt = OPTIMIZERS[name](model.parameters())
    clipper = clipwise.torch.attach(opt, clip, model=model)
    for step in (1, 2):
        backward(model, step)
        opt.step()
    state = [v.clone() for s in opt.state.values() for v in s.values() if isinstance(v, torch.Tensor)]
    before = [p.detach().clone() for p in model.parameters()]
    backward(model, 2)
    model[2].weight.grad[0, 0] = math.nan
    gradients = [g.clone() for g in gradients_of(model)]
    opt.step()
    after = [v for s in opt.state.values() for v in s.values() if isinstance(v, torch.Tensor)]
    assert all(torch.equal(a, b) for a, b in zip(after, state, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), before, strict=True))
    for now, was in zip(gradients_of(model), gradients, strict=True):
        assert torch.equal(now.nan_to_num(7.0), was.nan_to_num(7.0))
    assert clipper.report.worst == "2.weight"
    assert bool(clipper.report.skipped)
    assert not bool(clipper.report.clipped)
    assert (clipper.skipped_steps, told(opt)) == (1, [])


class EachAtPercentile:
    """Each tensor's own norm at a percentile of its norms so far."""

    def __init__(self, q):
        self.q = q
        self.norms = {}

    def __call__(self, model):
        for place, p in enumerate(model.parameters()):
            past = self.norms.setdefault(place, [])
            past.append(norm_of([p.grad]))
            clip_globally([p], float(np.percentile(past, self.q)))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_skipped_step_enters_no_history(name):
    """Not that of the tensors that were finite either."""
    ours, reference = make_model(), make_model()
    opt, ref = (OPTIMIZERS[name](m.parameters()) for m in (ours, reference))
    clip = clipwise.Clip(clipwise.thresholds.percentile(30), per="tensor")
    clipper = clipwise.torch.attach(opt, clip)
    by_hand = EachAtPercentile(30)
    for step in range(STEPS):
        backward(ours, step)
        if step in (2, 4):
            ours[2].weight.grad[0, 0] = math.inf
            opt.step()
            continue
        opt.step()
        backward(reference, step)
        by_hand(reference)
        ref.step()
    assert_same(ours, reference)
    assert (clipper.steps, clipper.skipped_steps) == (STEPS, 2)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_threshold_of_0_is_a_step_on_zeros(name):
    ours, reference = make_model(), make_model()
    opt, ref = (OPTIMIZERS[name](m.parameters()) for m in (ours, reference))
    clipwise.torch.attach(opt, clipwise.clip_by_global_norm(0.0))
    for step in range(3):
        backward(ours, step)
        opt.step()
        backward(reference, step)
        for gradient in gradients_of(reference):
            gradient.zero_()
        ref.step()
    assert_same(ours, reference, rtol=0, atol=0)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_coefficient_whose_inverse_no_float32_can_hold(name, engine):
    if engine == "foreach":
        pytest.skip("finding out would wait for the device")
    p = nn.Parameter(torch.zeros(2))
    opt = OPTIMIZERS[name]([p])
    clipper = clipwise.torch.attach(opt, clipwise.clip_by_global_norm(1e-4))
    p.grad = torch.zeros(2)
    opt.step()  # the first
    p.grad = torch.tensor([1.8e38, -2.4e38])
    opt.step()
    assert float(clipper.report.norm_after) == pytest.approx(1e-4)
    assert p.grad.tolist() == pytest.approx([6e-5, -8e-5], rel=1e-5)
