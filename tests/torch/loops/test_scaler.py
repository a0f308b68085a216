"""Under `torch.amp.GradScaler`: true gradients are clipped, and the scaler goes its way as without a clip."""

import math

import pytest
import torch

import clipwise
from tests.torch.loops.reference_loops import (
    STEPS,
    THRESHOLD,
    ClipAtPercentile,
    assert_same,
    clip_each,
    clip_globally,
    clip_units,
    clip_values,
    loss_of,
    make_model,
)

pytestmark = pytest.mark.device_path

optim = torch.optim
CLIP = clipwise.clip_by_global_norm(THRESHOLD)
CLIPS = {
    "global norm": (CLIP, lambda: clip_globally),
    "value": (clipwise.clip_by_value(0.01), lambda: clip_values),
    "norm": (clipwise.clip_by_norm(THRESHOLD), lambda: clip_each),
    "agc": (clipwise.adaptive_grad_clip(0.01), lambda: clip_units),
    "percentile": (clipwise.autoclip(60), lambda: ClipAtPercentile(60)),
}
OPTIMIZERS = {
    "sgd": lambda p: optim.SGD(p, lr=0.1, momentum=0.9),
    "adamw": lambda p: optim.AdamW(p, lr=0.01, foreach=True),
    "sgd fused": lambda p: optim.SGD(p, lr=0.1, momentum=0.9, fused=True),
    "adamw fused": lambda p: optim.AdamW(p, lr=0.01, fused=True),
    "adagrad fused": lambda p: optim.Adagrad(p, lr=0.01, fused=True),
}


def make_scaler(scale: float = 2.0**10) -> torch.amp.GradScaler:
    return torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=3)


def scaled_backward(model, opt, scaler, step, half=False):
    opt.zero_grad()
    with torch.autocast("cpu", torch.float16, enabled=half):
        loss = loss_of(model, step)
    scaler.scale(loss).backward()


class ByHand:
    """torch's recipe: unscale, clip, step, update."""

    def __init__(self, make_optimizer, by_hand=clip_globally, scale=2.0**10):
        self.model = make_model()
        self.opt = make_optimizer(self.model.parameters())
        self.scaler = make_scaler(scale)
        self.by_hand = by_hand
        self.clipped = self.taken = 0

    def step(self, step: int, half: bool = False) -> None:
        scaled_backward(self.model, self.opt, self.scaler, step, half)
        self.scaler.unscale_(self.opt)
        if all(p.grad.isfinite().all() for p in self.model.parameters()):
            self.clipped += self.by_hand(self.model)
            self.taken += 1
        self.scaler.step(self.opt)
        self.scaler.update()


@pytest.mark.parametrize("user_unscales", [False, True])
@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_clips_true_gradients(optimizer, clip, user_unscales):
    clip, by_hand = CLIPS[clip]
    reference = ByHand(OPTIMIZERS[optimizer], by_hand())
    ours, scaler = make_model(), make_scaler()
    opt = OPTIMIZERS[optimizer](ours.parameters())
    clipper = clipwise.torch.attach(opt, clip)
    for step in range(STEPS):
        scaled_backward(ours, opt, scaler, step)
        if user_unscales:
            scaler.unscale_(opt)
        scaler.step(opt)
        scaler.update()
        reference.step(step)
        assert not hasattr(opt, "grad_scale")
        assert not hasattr(opt, "found_inf")
    assert_same(ours, reference.model)
    assert scaler.state_dict() == reference.scaler.state_dict()
    assert (clipper.steps, clipper.clipped_steps) == (STEPS, reference.clipped)
    assert 0 < reference.clipped < STEPS


@pytest.mark.parametrize("user_unscales", [False, True])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_fp16_that_overflows_until_the_scale_has_come_down(optimizer, user_unscales):
    """The steps that the scaler skips are not clipped, not counted, and enter no history."""
    start = 2.0**24
    # torch's own fused SGD starts its momentum with what lies in memory if its first step is left out.
    reference = ByHand(OPTIMIZERS["sgd" if "sgd" in optimizer else optimizer], ClipAtPercentile(60), start)
    ours, scaler = make_model(), make_scaler(start)
    opt = OPTIMIZERS[optimizer](ours.parameters())
    clipper = clipwise.torch.attach(opt, clipwise.autoclip(60))
    skipped = 0
    for step in range(3 * STEPS):
        before = [p.detach().clone() for p in ours.parameters()]
        steps, scale = clipper.steps, scaler.get_scale()
        scaled_backward(ours, opt, scaler, step, half=True)
        if user_unscales:
            scaler.unscale_(opt)
        scaler.step(opt)
        scaler.update()
        reference.step(step, half=True)
        if scaler.get_scale() < scale:
            skipped += 1
            assert scaler.get_scale() == scale / 2
            assert clipper.steps == steps
            assert all(torch.equal(p, q) for p, q in zip(ours.parameters(), before, strict=True))
    assert skipped > 2
    assert (clipper.steps, clipper.skipped_steps) == (3 * STEPS - skipped, 0)
    assert (clipper.steps, clipper.clipped_steps) == (reference.taken, reference.clipped)
    assert scaler.state_dict() == reference.scaler.state_dict()
    assert_same(ours, reference.model, rtol=1e-3, atol=1e-5)  # fp16 forward passes carry roundings on


@pytest.fixture
def memory_full_of_nan():
    """What torch leaves uninitialised is NaN."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("memory_full_of_nan")
@pytest.mark.parametrize("scaled", [False, True])
def test_a_first_step_of_fused_sgd_that_is_left_out(scaled):
    """torch's fused step creates its momentum without filling it, and then leaves the step out."""
    ours, reference = make_model(), make_model()
    opt, ref = (OPTIMIZERS["sgd fused"](m.parameters()) for m in (ours, reference))
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, enabled=scaled)
    clipwise.torch.attach(opt, CLIP)
    for step in range(4):
        opt.zero_grad()
        scaler.scale(loss_of(ours, step)).backward()
        if step == 0:
            ours[0].weight.grad[0, 0] = math.inf
        scaler.step(opt)
        scaler.update()
        if step:
            ref.zero_grad()
            loss_of(reference, step).backward()
            clip_globally(reference)
            ref.step()
    assert_same(ours, reference)


@pytest.mark.parametrize("optimizer", ["sgd fused", "adamw fused"])
def test_others_find_the_scale_as_the_scaler_set_it(optimizer):
    """After the step, before the scaler takes its word back: torch's own hooks may look at it."""
    model, scaler = make_model(), make_scaler()
    opt = OPTIMIZERS[optimizer](model.parameters())
    clipwise.torch.attach(opt, CLIP)
    seen = []
    opt.register_step_post_hook(lambda o, *_: seen.append((float(o.grad_scale), float(o.found_inf))))
    for step in range(3):
        scaled_backward(model, opt, scaler, step)
        scaler.step(opt)
        scaler.update()
    assert seen == [(2.0**10, 0.0)] * 3


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_scaler_that_is_not_enabled(optimizer):
    reference = ByHand(OPTIMIZERS[optimizer])
    ours, scaler = make_model(), torch.amp.GradScaler("cpu", enabled=False)
    opt = OPTIMIZERS[optimizer](ours.parameters())
    clipwise.torch.attach(opt, CLIP)
    for step in range(STEPS):
        scaled_backward(ours, opt, scaler, step)
        scaler.step(opt)
        scaler.update()
        reference.step(step)
    assert_same(ours, reference.model)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw fused"])
def test_accumulation_under_a_scaler(optimizer):
    ours, reference = make_model(), make_model()
    opt, ref = (OPTIMIZERS[optimizer](m.parameters()) for m in (ours, reference))
    scaler, other = make_scaler(), make_scaler()
    clipper = clipwise.torch.attach(opt, CLIP)
    for model, stepping, scaling in ((ours, opt, scaler), (reference, ref, other)):
        for step in range(2 * STEPS):
            scaling.scale(loss_of(model, step // 2)).backward()
            if step % 2:
                if model is reference:
                    scaling.unscale_(stepping)
                    clip_globally(model)
                scaling.step(stepping)
                scaling.update()
                stepping.zero_grad()
    assert_same(ours, reference)
    assert clipper.steps == STEPS


@pytest.mark.parametrize("optimizer", ["sgd", "adamw fused"])
def test_nan_that_no_scaler_sees_is_still_skipped(optimizer):
    """After the user's own unscale_ the scaler looks no more; a NaN that comes later is found here."""
    model, scaler = make_model(), make_scaler()
    opt = OPTIMIZERS[optimizer](model.parameters())
    clipper = clipwise.torch.attach(opt, CLIP, model=model)
    for step in range(3):
        before = [p.detach().clone() for p in model.parameters()]
        scaled_backward(model, opt, scaler, step)
        scaler.unscale_(opt)
        if step == 1:
            model[0].weight.grad[0, 0] = math.nan
        scaler.step(opt)
        scaler.update()
        same = all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))
        assert same == (step == 1)
    assert (clipper.steps, clipper.skipped_steps) == (3, 1)
    assert not hasattr(opt, "found_inf")
