"""`attach` on what Lightning Fabric sets up, as it is, on the CPU."""

import pytest
import torch

pytest.importorskip("lightning_fabric")

from lightning_fabric import Fabric
from lightning_fabric.plugins.precision import MixedPrecision

import clipwise
from tests.integrations.test_accelerate import OPTIMIZERS, makes
from tests.torch.loops.reference_loops import (
    STEPS,
    THRESHOLD,
    assert_identical,
    assert_same,
    clip_globally,
    gradients_of,
    loss_of,
    make_model,
    norm_of,
    run_by_hand,
)

CLIP = clipwise.clip_by_global_norm(THRESHOLD)


def set_up(make, **options):
    fabric = Fabric(accelerator="cpu", devices=1, **options)
    model = make_model()
    return fabric, *fabric.setup(model, make(model.parameters()))


def train(fabric, model, opt, clip=None, accumulate=1, steps=range(STEPS)):
    for step in steps:
        last = (step + 1) % accumulate == 0
        with fabric.no_backward_sync(model, enabled=not last):
            fabric.backward(loss_of(model, step) / accumulate)
        if last:
            if clip is not None:
                fabric.clip_gradients(model, opt, max_norm=clip)
            opt.step()
            opt.zero_grad()


@makes
@pytest.mark.parametrize("named_by", ["the module that fabric made", "the module inside"])
def test_a_plain_loop(make, named_by):
    fabric, model, opt = set_up(make)
    clipper = clipwise.torch.attach(opt, CLIP, model=model if "made" in named_by else model.module)
    train(fabric, model, opt)
    reference = make_model()
    clipped = run_by_hand(reference, make(reference.parameters()))
    assert_same(model.module, reference)
    assert (clipper.steps, clipper.clipped_steps) == (STEPS, clipped)
    assert clipper.report.names[0].endswith("0.weight")


@makes
def test_accumulation(make):
    fabric, model, opt = set_up(make)
    clipper = clipwise.torch.attach(opt, CLIP, model=model)
    train(fabric, model, opt, accumulate=3)
    reference, clipped = make_model(), 0
    by_hand = make(reference.parameters())
    for step in range(STEPS):
        (loss_of(reference, step) / 3).backward()
        if (step + 1) % 3 == 0:
            clipped += clip_globally(reference)
            by_hand.step()
            by_hand.zero_grad()
    assert clipped > 0
    assert_same(model.module, reference)
    assert (clipper.steps, clipper.clipped_steps) == (STEPS // 3, clipped)


@makes
@pytest.mark.parametrize("half", ["bf16-mixed", "16-mixed"])
def test_mixed_precision(make, half):
    def scaler():
        return torch.amp.GradScaler("cpu", init_scale=2.0**12, growth_interval=2, enabled=half == "16-mixed")

    plugin = MixedPrecision(half, "cpu", scaler() if half == "16-mixed" else None)
    fabric, model, opt = set_up(make, plugins=plugin)
    clipper = clipwise.torch.attach(opt, CLIP, model=model)
    train(fabric, model, opt)
    reference, theirs, clipped = make_model(), scaler(), 0
    by_hand = make(reference.parameters())
    kind = torch.half if half == "16-mixed" else torch.bfloat16

    class Inside(torch.nn.Module):
        """As Fabric makes a model: autocast inside, float32 outside."""

        def __init__(self):
            super().__init__()
            self.model = reference

        def forward(self, rows):
            with torch.autocast("cpu", dtype=kind):
                return self.model(rows).float()

    for step in range(STEPS):
        reference.zero_grad()
        theirs.scale(loss_of(Inside(), step)).backward()
        theirs.unscale_(by_hand)
        if norm_of(gradients_of(reference)) < float("inf"):
            clipped += clip_globally(reference)
        theirs.step(by_hand)
        theirs.update()
    assert 0 < clipped < STEPS
    assert_same(model.module, reference, rtol=2e-5, atol=2e-6)
    assert clipper.clipped_steps == clipped


def test_a_loop_that_clips_too_is_told_once():
    fabric, model, opt = set_up(OPTIMIZERS["sgd"])
    clipwise.torch.attach(opt, CLIP, model=model)
    with pytest.warns(UserWarning, match="the loop clips too: .*clip_grad_norm_ to 0.5") as told:
        train(fabric, model, opt, clip=0.5)
    assert sum("the loop clips too" in str(one.message) for one in told) == 1


@makes
def test_saved_and_resumed_by_fabric(make, tmp_path):
    """Fabric saves whatever has a `state_dict`."""
    through, stopped, resumed = (set_up(make) for _ in range(3))
    clippers = [
        clipwise.torch.attach(opt, clipwise.autoclip(60), model=model)
        for _, model, opt in (through, stopped, resumed)
    ]
    train(*through, steps=range(2 * STEPS))
    train(*stopped)
    fabric, model, opt = stopped
    fabric.save(tmp_path / "checkpoint", {"model": model, "optimizer": opt, "clipper": clippers[1]})
    fabric, model, opt = resumed
    fabric.load(tmp_path / "checkpoint", {"model": model, "optimizer": opt, "clipper": clippers[2]})
    assert clippers[2].steps == STEPS
    train(*resumed, steps=range(STEPS, 2 * STEPS))
    assert_identical(through[1].module, resumed[1].module)
