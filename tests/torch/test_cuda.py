"""On a GPU: the numbers of the CPU, and no step that waits for the device."""

import pytest
import torch
from torch import nn

import clipwise

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")

CLIPS = {
    "value": clipwise.clip_by_value(0.01),
    "norm": clipwise.clip_by_norm(0.05),
    "global": clipwise.clip_by_global_norm(0.1),
    "rms": clipwise.clip_by_block_rms(0.001),
    "agc": clipwise.adaptive_grad_clip(0.01),
    "autoclip": clipwise.autoclip(10),
    "zclip": clipwise.zclip(warmup=2),
    "adagc": clipwise.adagc(warmup=2),
    "auto": clipwise.auto(),
    "chain": clipwise.chain(clipwise.clip_by_value(0.05), clipwise.clip_by_global_norm(0.1)),
    "by_name": clipwise.by_name({"0.*": clipwise.clip_by_norm(0.05), "*": clipwise.clip_by_global_norm(0.1)}),
}


def make_model(device: str) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 4)).to(device)


def train(device: str, clip, optimizer, steps: int, **how):
    """Some steps on the same data; returns the model and the clipper."""
    model = make_model(device)
    opt = optimizer(model.parameters())
    clipper = clipwise.torch.attach(opt, clip, model=model, **how)
    generator = torch.Generator().manual_seed(1)
    for step in range(steps):
        opt.zero_grad()
        batch = torch.randn(5, 8, generator=generator).to(device) * (1 + step)
        loss = model(batch).square().mean()
        loss.backward()
        clipper.observe(loss)
        opt.step()
    return model, clipper


OPTIMIZERS = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
    "fused adamw": lambda parameters: torch.optim.AdamW(parameters, lr=0.01, fused=True),
    "fused sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.1, fused=True),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("clip", CLIPS)
def test_the_same_training_as_on_the_cpu(clip, optimizer):
    here, on_cpu = train("cpu", CLIPS[clip], OPTIMIZERS[optimizer], 6)
    there, on_gpu = train("cuda", CLIPS[clip], OPTIMIZERS[optimizer], 6)
    for a, b in zip(here.parameters(), there.parameters(), strict=True):
        # Matrix products differ by float32 rounding, six steps amplify it.
        torch.testing.assert_close(a, b.cpu(), rtol=1e-3, atol=1e-4)
    assert on_gpu.steps == on_cpu.steps
    assert on_gpu.report.norm.device.type == "cuda"
    assert float(on_gpu.report.norm) == pytest.approx(float(on_cpu.report.norm), rel=1e-2)


@pytest.mark.parametrize(
    ("optimizer", "nonfinite"),
    [("fused adamw", "skip"), ("fused sgd", "skip"), ("fused adamw", "propagate"), ("sgd", "propagate")],
)
@pytest.mark.parametrize("clip", CLIPS)
def test_a_step_does_not_wait_for_the_device(clip, optimizer, nonfinite):
    model = make_model("cuda")
    opt = OPTIMIZERS[optimizer](model.parameters())
    clipper = clipwise.torch.attach(opt, CLIPS[clip], model=model, nonfinite=nonfinite)
    batch = torch.randn(5, 8, device="cuda")
    for step in range(4):
        opt.zero_grad()
        loss = model(batch).square().mean()
        loss.backward()
        clipper.observe(loss)
        # The first steps send what stays the same to the device and try the kernels.
        torch.cuda.set_sync_debug_mode("error" if step > 1 else "default")
        try:
            opt.step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert clipper.steps == 4


@pytest.mark.parametrize("optimizer", ["fused adamw", "fused sgd", "sgd"])
def test_a_bad_step_does_not_happen(optimizer):
    model = make_model("cuda")
    opt = OPTIMIZERS[optimizer](model.parameters())
    clipper = clipwise.torch.attach(opt, clipwise.clip_by_global_norm(1.0), model=model)
    for bad in (False, True, False):
        opt.zero_grad()
        model(torch.ones(2, 8, device="cuda")).sum().backward()
        if bad:
            model[2].bias.grad[1] = torch.nan
        before = [p.detach().clone() for p in model.parameters()]
        opt.step()
        moved = any(not torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))
        assert moved is not bad
        if bad:
            assert clipper.report.worst == "2.bias"
            assert bool(clipper.report.skipped)
    assert (clipper.steps, clipper.skipped_steps) == (3, 1)


def test_the_engine_is_triton_where_it_is_installed():
    pytest.importorskip("triton", reason="Triton is not installed")
    assert clipwise.torch.engine("cuda") == "triton"
