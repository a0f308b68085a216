"""`weights=`: the weights are bounded after every step, and only then."""

import numpy as np
import pytest
import torch

import clipwise
from clipwise.errors import ArgumentError
from tests.torch.loops.reference_loops import (
    STEPS,
    THRESHOLD,
    assert_same,
    backward,
    clip_globally,
    entries,
    loss_of,
    make_model,
)

pytestmark = pytest.mark.device_path

optim = torch.optim
CLIP = clipwise.clip_by_global_norm(THRESHOLD)
OPTIMIZERS = {
    "sgd": lambda p: optim.SGD(p, lr=0.1, momentum=0.9),
    "rmsprop": lambda p: optim.RMSprop(p, lr=0.001),
    "adamw fused": lambda p: optim.AdamW(p, lr=0.01, fused=True),
}


def bound_values(model, limit=0.1):
    for p in model.parameters():
        p.data.copy_(torch.from_numpy(np.clip(entries(p), -limit, limit)))


def bound_units(model, limit=0.3):
    """The max-norm constraint: no row of a matrix, and no vector, is longer."""
    for p in model.parameters():
        rows = entries(p).reshape((p.shape[0], -1) if p.ndim > 1 else (1, -1))
        norms = np.linalg.norm(rows, axis=1, keepdims=True)
        p.data.copy_(torch.from_numpy(rows * np.minimum(1.0, limit / norms)).reshape(p.shape))


WEIGHTS = {
    "wgan": (clipwise.clip_by_value(0.1), bound_values),
    "max norm": (clipwise.Clip(0.3, per="unit"), bound_units),
}


@pytest.mark.parametrize("clip", [None, CLIP], ids=["weights only", "gradients too"])
@pytest.mark.parametrize("kind", WEIGHTS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_after_every_step(optimizer, kind, clip):
    """The first step starts from weights beyond the bound: they are not bounded before it."""
    weights, by_hand = WEIGHTS[kind]
    ours, reference = make_model(), make_model()
    opt, ref = (OPTIMIZERS[optimizer](m.parameters()) for m in (ours, reference))
    clipper = clipwise.torch.attach(opt, clip, model=ours, weights=weights)
    for step in range(STEPS):
        backward(ours, step)
        opt.step()
        backward(reference, step)
        if clip is not None:
            clip_globally(reference)
        ref.step()
        by_hand(reference)
        assert_same(ours, reference)
        assert clipper.weights.steps == step + 1
    assert clipper.steps == STEPS
    assert clipper.weights.clipped_steps > 0
    assert bool(clipper.report.clipped) == (clip is not None)
    assert clipper.weights.report.names == tuple(dict(ours.named_parameters()))


@pytest.mark.parametrize("optimizer", ["sgd", "adamw fused"])
def test_report(optimizer):
    model = make_model()
    opt = OPTIMIZERS[optimizer](model.parameters())
    clipper = clipwise.torch.attach(opt, weights=clipwise.clip_by_value(0.1))
    reference = make_model()
    ref = OPTIMIZERS[optimizer](reference.parameters())
    for m, stepping in ((model, opt), (reference, ref)):
        backward(m, 2)
        stepping.step()
    values = np.concatenate([entries(p).ravel() for p in reference.parameters()])
    report = clipper.weights.report
    assert float(report.norm) == pytest.approx(np.linalg.norm(values), rel=1e-6)
    assert float(report.norm_after) == pytest.approx(np.linalg.norm(np.clip(values, -0.1, 0.1)), rel=1e-6)
    assert float(report.clip_fraction) == pytest.approx(np.mean(np.abs(values) > 0.1))
    assert not bool(clipper.report.clipped)


def test_lbfgs_bounds_them_once_a_step_and_not_at_every_evaluation():
    ours, reference = make_model().double(), make_model().double()
    opt, ref = (optim.LBFGS(m.parameters(), lr=0.5, max_iter=4) for m in (ours, reference))
    clipper = clipwise.torch.attach(opt, weights=clipwise.clip_by_value(0.1))
    for step in range(4):
        opt.step(lambda step=step: backward(ours, step))
        ref.step(lambda step=step: backward(reference, step))
        bound_values(reference)
    assert_same(ours, reference, rtol=1e-9, atol=1e-12)
    assert clipper.weights.steps == 4


@pytest.mark.parametrize("optimizer", ["sgd", "adamw fused"])
def test_under_a_scaler(optimizer):
    ours, reference = make_model(), make_model()
    opt, ref = (OPTIMIZERS[optimizer](m.parameters()) for m in (ours, reference))
    clipwise.torch.attach(opt, CLIP, weights=clipwise.clip_by_value(0.1))
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    for step in range(STEPS):
        opt.zero_grad()
        scaler.scale(loss_of(ours, step)).backward()
        scaler.step(opt)
        scaler.update()
        backward(reference, step)
        clip_globally(reference)
        ref.step()
        bound_values(reference)
    assert_same(ours, reference)


def test_gradients_are_left_alone():
    model = make_model()
    opt = OPTIMIZERS["sgd"](model.parameters())
    clipwise.torch.attach(opt, weights=clipwise.clip_by_value(1e-4))
    backward(model, 2)
    before = [p.grad.clone() for p in model.parameters()]
    opt.step()
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), before, strict=True))
    assert all((p.abs() <= 1e-4).all() for p in model.parameters())


def test_detached_they_are_free():
    model = make_model()
    opt = OPTIMIZERS["sgd"](model.parameters())
    with clipwise.torch.attach(opt, weights=clipwise.clip_by_value(1e-4)):
        backward(model, 2)
        opt.step()
    backward(model, 2)
    opt.step()
    assert any((p.abs() > 1e-4).any() for p in model.parameters())


def test_parameters_that_come_later_are_bounded_too():
    model, head = make_model(), torch.nn.Linear(3, 1)
    opt = OPTIMIZERS["sgd"](model.parameters())
    clipper = clipwise.torch.attach(opt, CLIP, weights=clipwise.clip_by_value(0.1))
    opt.add_param_group({"params": head.parameters()})
    head(model(torch.ones(2, 6))).sum().backward()
    opt.step()
    assert all((p.abs() <= 0.1 + 1e-8).all() for p in head.parameters())
    assert len(clipper.weights.report.names) == 6


def test_refused():
    """Before anything is attached."""
    opt = OPTIMIZERS["sgd"](make_model().parameters())
    with pytest.raises(ArgumentError, match="or weights="):
        clipwise.torch.attach(opt)
    follows = clipwise.Clip(clipwise.thresholds.reduce_on_instability(1.0), per="element")
    for weights in (follows, clipwise.by_name({"0.*": clipwise.chain(CLIP, follows), "*": None})):
        with pytest.raises(ArgumentError, match="cannot follow the loss, as reduce_on_instability"):
            clipwise.torch.attach(opt, CLIP, weights=weights)
    clipwise.torch.attach(opt, CLIP)
