"""bf16 and fp16: norms in float32 at least, clipped gradients rounded once."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

import clipwise
from tests.torch.loops.reference_loops import (
    STEPS,
    THRESHOLD,
    assert_same,
    clip_globally,
    gradients_of,
    loss_of,
    make_model,
    norm_of,
    run_by_hand,
)

pytestmark = pytest.mark.device_path

optim = torch.optim
CLIP = clipwise.clip_by_global_norm(THRESHOLD)
# 1e-8, the usual eps, is 0 in fp16.
OPTIMIZERS = {
    "sgd": lambda p: optim.SGD(p, lr=0.1, momentum=0.9),
    "adamw": lambda p: optim.AdamW(p, lr=0.01, eps=1e-4),
    "sgd fused": lambda p: optim.SGD(p, lr=0.1, momentum=0.9, fused=True),
    "adamw fused": lambda p: optim.AdamW(p, lr=0.01, eps=1e-4, fused=True),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_bf16_autocast(optimizer):
    ours, reference = make_model(), make_model()
    opt, ref = (OPTIMIZERS[optimizer](m.parameters()) for m in (ours, reference))
    clipper = clipwise.torch.attach(opt, CLIP)
    clipped = 0
    for step in range(STEPS):
        for model, stepping in ((ours, opt), (reference, ref)):
            stepping.zero_grad()
            with torch.autocast("cpu", torch.bfloat16):
                loss = loss_of(model, step)
            loss.backward()
            if model is reference:
                norm = norm_of(gradients_of(model))
                clipped += clip_globally(model)
            stepping.step()
        assert float(clipper.report.norm) == pytest.approx(norm, rel=1e-2)  # autocast amplifies a last bit
    assert_same(ours, reference, rtol=1e-3, atol=1e-4)
    assert clipper.clipped_steps == clipped
    assert 0 < clipped < STEPS


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_parameters_of_other_widths(optimizer, dtype):
    """One step from the same state at a time: half precision would carry a last bit far."""
    ours = make_model().to(dtype)
    opt = OPTIMIZERS[optimizer](ours.parameters())
    clipper = clipwise.torch.attach(opt, CLIP)
    clipped = 0
    for step in range(STEPS):
        reference = make_model().to(dtype)
        reference.load_state_dict(ours.state_dict())
        ref = OPTIMIZERS[optimizer](reference.parameters())
        ref.load_state_dict(copy.deepcopy(opt.state_dict()))
        for model, stepping in ((ours, opt), (reference, ref)):
            stepping.zero_grad()
            loss_of(model, step).backward()
            if model is reference:
                norm = norm_of(gradients_of(model))
                clipped += clip_globally(model)
            stepping.step()
        assert float(clipper.report.norm) == pytest.approx(norm, rel=1e-12)
        assert float(clipper.report.norm_after) == pytest.approx(min(norm, THRESHOLD), rel=1e-12)
        digit = torch.finfo(dtype).eps if dtype != torch.float64 else 1e-7  # fused steps divide in float32
        assert_same(ours, reference, rtol=digit, atol=digit / 8)
    assert 0 < clipped < STEPS
    assert clipper.clipped_steps == clipped


# Without fused SGD: torch's own does not change half-precision parameters on the CPU, clipped or not.
@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "adamw fused"])
def test_squares_that_overflow_fp16(optimizer, engine):
    """Entries of 6e4 are finite in fp16 while the square of one is not: the true norm, and a true step."""
    p = nn.Parameter(torch.zeros(4096, dtype=torch.float16))
    opt = OPTIMIZERS[optimizer]([p])
    clipper = clipwise.torch.attach(opt, CLIP)
    p.grad = torch.full_like(p, 6e4)
    expected = math.sqrt(4096) * float(np.float16(6e4))
    opt.step()
    exact = 1e-6 if engine in ("foreach", "reference") else 1e-12  # there in rows of float32
    assert float(clipper.report.norm) == pytest.approx(expected, rel=exact)
    assert norm_of([p.grad]) == pytest.approx(THRESHOLD, rel=1e-3)
    assert (p < 0).all()


@pytest.mark.parametrize("optimizer", ["sgd", "sgd fused"])
def test_the_squares_of_1e20_in_fp32(optimizer):
    p = nn.Parameter(torch.zeros(2))
    opt = OPTIMIZERS[optimizer]([p])
    clipper = clipwise.torch.attach(opt, clipwise.clip_by_global_norm(1.0))
    p.grad = torch.tensor([3e20, -4e20])
    opt.step()
    assert float(clipper.report.norm) == pytest.approx(5e20, rel=1e-6)
    assert p.tolist() == pytest.approx([-0.06, 0.08], rel=1e-6)


def test_master_weights_in_fp32_of_a_model_in_bf16():
    """The optimizer holds its own wide copy, gradients are copied over: the loop of many trainers."""
    ours, reference = make_model(), make_model()
    narrow = make_model().bfloat16()
    opt, ref = (OPTIMIZERS["adamw fused"](m.parameters()) for m in (ours, reference))
    clipwise.torch.attach(opt, CLIP, model=ours)
    for step in range(STEPS):
        narrow.load_state_dict(ours.state_dict())
        narrow.zero_grad()
        loss_of(narrow, step).backward()
        for model, stepping in ((ours, opt), (reference, ref)):
            for p, q in zip(model.parameters(), narrow.parameters(), strict=True):
                p.grad = q.grad.float()
            if model is reference:
                clip_globally(model)
            stepping.step()
    assert_same(ours, reference)


def test_the_reference_loop_is_clipped_in_some_steps_only():
    model = make_model()
    assert run_by_hand(model, OPTIMIZERS["sgd"](model.parameters())) == STEPS // 3
