"""`torch.compile` of the model, of the optimizer's step, and of a function that takes the step."""

import math
import shutil

import pytest
import torch
import torch._inductor.config

import clipwise
from tests.depth import thorough
from tests.torch.loops.reference_loops import (
    STEPS,
    THRESHOLD,
    ClipAtPercentile,
    assert_same,
    backward,
    clip_each,
    clip_globally,
    loss_of,
    make_model,
    run_by_hand,
)

optim = torch.optim
CLIP = clipwise.clip_by_global_norm(THRESHOLD)
OPTIMIZERS = {
    "sgd": lambda p: optim.SGD(p, lr=0.1, momentum=0.9),
    "adam": lambda p: optim.Adam(p, lr=0.01, foreach=True),
    "adamw fused": lambda p: optim.AdamW(p, lr=0.01, fused=True),
    "sgd fused": lambda p: optim.SGD(p, lr=0.1, momentum=0.9, fused=True),
}


# Compiled, torch orders some of the optimizer's own arithmetic in another way: the tolerance is wider here.


@pytest.fixture(autouse=True)
def compile_anew():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def compiled_step(opt, how, backend):
    if how == "the step":
        return torch.compile(opt.step, backend=backend)

    def take_a_step():
        opt.step()

    return torch.compile(take_a_step, backend=backend)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw fused"])
def test_a_compiled_model(optimizer, backend):
    ours, reference = make_model(), make_model()
    opt, ref = (OPTIMIZERS[optimizer](m.parameters()) for m in (ours, reference))
    clipper = clipwise.torch.attach(opt, CLIP, model=ours)
    compiled = torch.compile(ours, backend=backend)
    for step in range(STEPS):
        opt.zero_grad()
        loss_of(compiled, step).backward()
        opt.step()
    clipped = run_by_hand(reference, ref)
    assert_same(ours, reference)
    assert (clipper.steps, clipper.clipped_steps) == (STEPS, clipped)
    assert clipper.report.worst in dict(ours.named_parameters())


@pytest.mark.parametrize("how", ["the step", "a function"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_compiled_step(optimizer, how):
    """Every step with its own coefficient: nothing of the first may be baked into the compiled code."""
    ours, reference = make_model(), make_model()
    opt, ref = (OPTIMIZERS[optimizer](m.parameters()) for m in (ours, reference))
    clipper = clipwise.torch.attach(opt, clipwise.autoclip(60))
    step_of = compiled_step(opt, how, "eager")
    for step in range(STEPS):
        backward(ours, step)
        step_of()
        assert not hasattr(opt, "grad_scale")
        assert not hasattr(opt, "found_inf")
    clipped = run_by_hand(reference, ref, ClipAtPercentile(60))
    assert_same(ours, reference, atol=2e-6)
    assert (clipper.steps, clipper.clipped_steps) == (STEPS, clipped)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw fused"])
def test_a_compiled_step_with_a_clip_for_each_tensor(optimizer):
    ours, reference = make_model(), make_model()
    opt, ref = (OPTIMIZERS[optimizer](m.parameters()) for m in (ours, reference))
    clipwise.torch.attach(opt, clipwise.clip_by_norm(THRESHOLD))
    step_of = compiled_step(opt, "the step", "aot_eager")
    for step in range(STEPS):
        backward(ours, step)
        step_of()
    run_by_hand(reference, ref, clip_each)
    assert_same(ours, reference, atol=2e-6)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_compiled_step_that_is_skipped(optimizer):
    ours, reference = make_model(), make_model()
    opt, ref = (OPTIMIZERS[optimizer](m.parameters()) for m in (ours, reference))
    clipper = clipwise.torch.attach(opt, CLIP)
    step_of = compiled_step(opt, "the step", "eager")
    for step in range(STEPS):
        backward(ours, step)
        if step in (3, 4):
            ours[0].weight.grad[0, 0] = math.nan
        step_of()
        if step not in (3, 4):
            backward(reference, step)
            clip_globally(reference)
            ref.step()
    assert_same(ours, reference, atol=2e-6)
    assert clipper.skipped_steps == 2


@pytest.mark.parametrize("optimizer", ["sgd", "adamw fused"])
def test_compiled_before_the_clip_is_attached_and_after_it_is_gone(optimizer):
    ours, reference = make_model(), make_model()
    opt, ref = (OPTIMIZERS[optimizer](m.parameters()) for m in (ours, reference))
    step_of = compiled_step(opt, "the step", "eager")
    clipper = None
    for step in range(3 * STEPS):
        if step == STEPS:
            clipper = clipwise.torch.attach(opt, CLIP)
        if step == 2 * STEPS:
            clipper.detach()
        backward(ours, step)
        step_of()
        backward(reference, step)
        if STEPS <= step < 2 * STEPS:
            clip_globally(reference)
        ref.step()
    assert_same(ours, reference, atol=2e-6)
    assert clipper.steps == STEPS


@pytest.mark.parametrize("optimizer", ["sgd", "adamw fused"])
def test_a_compiled_step_under_a_scaler(optimizer):
    ours, reference = make_model(), make_model()
    opt, ref = (OPTIMIZERS[optimizer](m.parameters()) for m in (ours, reference))
    opt.step = torch.compile(opt.step, backend="eager")
    clipper = clipwise.torch.attach(opt, CLIP)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=3)
    for step in range(STEPS):
        opt.zero_grad()
        scaler.scale(loss_of(ours, step)).backward()
        scaler.step(opt)
        scaler.update()
    clipped = run_by_hand(reference, ref)
    assert_same(ours, reference, atol=2e-6)
    assert (clipper.steps, clipper.clipped_steps) == (STEPS, clipped)


@thorough
@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
@pytest.mark.parametrize("engine", ["reference"], indirect=True)  # one will do for so much compiling
def test_inductor(monkeypatch):
    """The real compiler, once: the model, and a fused and a plain step."""
    # What it kept may be written for vectors of another width.
    monkeypatch.setattr(torch._inductor.config, "force_disable_caches", True)
    for make in (OPTIMIZERS["adamw fused"], OPTIMIZERS["sgd"]):
        ours, reference = make_model(), make_model()
        opt, ref = make(ours.parameters()), make(reference.parameters())
        clipper = clipwise.torch.attach(opt, CLIP)
        compiled, step_of = torch.compile(ours), torch.compile(opt.step)
        for step in range(STEPS):
            opt.zero_grad()
            loss_of(compiled, step).backward()
            step_of()
        clipped = run_by_hand(reference, ref)
        assert_same(ours, reference, rtol=1e-5, atol=1e-6)  # it fuses the model's own arithmetic
        assert (clipper.steps, clipper.clipped_steps) == (STEPS, clipped)
