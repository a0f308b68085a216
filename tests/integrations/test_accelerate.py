"""`attach` on what Accelerate prepares, as it is, on the CPU."""

import warnings

import pytest
import torch
from torch.utils.data import DataLoader

pytest.importorskip("accelerate")

from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.state import AcceleratorState, GradientState

import clipwise
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

optim = torch.optim
CLIP = clipwise.clip_by_global_norm(THRESHOLD)
OPTIMIZERS = {
    "sgd": lambda p: optim.SGD(p, lr=0.1, momentum=0.9),
    "adam": lambda p: optim.Adam(p, lr=0.01),
    "fused": lambda p: optim.AdamW(p, lr=0.01, fused=True),
}
makes = pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)


@pytest.fixture(autouse=True)
def afresh():
    """Accelerators share their state within a process."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def prepared(make, **options):
    accelerator = Accelerator(cpu=True, **options)
    model = make_model()
    model, opt, data = accelerator.prepare(
        model, make(model.parameters()), DataLoader(torch.arange(STEPS), batch_size=1)
    )
    assert isinstance(opt, AcceleratedOptimizer)
    return accelerator, model, opt, data


def train(accelerator, model, opt, data, clip=None):
    for batch in data:
        with accelerator.accumulate(model):
            accelerator.backward(loss_of(model, int(batch)))
            if clip is not None and accelerator.sync_gradients:
                accelerator.clip_grad_norm_(model.parameters(), clip)
            opt.step()
            opt.zero_grad()


@makes
def test_a_plain_loop(make):
    accelerator, model, opt, data = prepared(make)
    clipper = clipwise.torch.attach(opt, CLIP, model=model)
    train(accelerator, model, opt, data)
    reference = make_model()
    clipped = run_by_hand(reference, make(reference.parameters()))
    assert_same(model, reference)
    assert (clipper.steps, clipper.clipped_steps) == (STEPS, clipped)
    assert clipper.optimizer is opt.optimizer
    assert clipper.report.names[0] == "0.weight"


@makes
@pytest.mark.parametrize("accumulate", [2, 4])
def test_accumulate(make, accumulate):
    """The last batches are stepped on too, though fewer."""
    accelerator, model, opt, data = prepared(make, gradient_accumulation_steps=accumulate)
    clipper = clipwise.torch.attach(opt, CLIP, model=model)
    train(accelerator, model, opt, data)
    reference = make_model()
    by_hand, taken, clipped = make(reference.parameters()), 0, 0
    for step in range(STEPS):
        (loss_of(reference, step) / accumulate).backward()
        if (step + 1) % accumulate == 0 or step == STEPS - 1:
            clipped += clip_globally(reference)
            by_hand.step()
            by_hand.zero_grad()
            taken += 1
    assert clipped > 0
    assert_same(model, reference)
    assert (clipper.steps, clipper.clipped_steps) == (taken, clipped)


@makes
@pytest.mark.parametrize("unscale", [False, True], ids=["", "unscaled by the loop"])
def test_fp16_with_a_scaler(make, unscale):
    """Accelerate itself wants a GPU for fp16: here its optimizer is given the scaler of the CPU."""

    def scaler():
        return torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=2)

    Accelerator(cpu=True)
    model, reference = make_model().half().float(), make_model().half().float()
    ours, theirs = scaler(), scaler()
    opt = AcceleratedOptimizer(make(model.parameters()), scaler=ours)
    by_hand = make(reference.parameters())
    clipper = clipwise.torch.attach(opt, CLIP, model=model)
    taken = clipped = skipped = 0
    for step in range(STEPS):
        for one, scale in ((model, ours), (reference, theirs)):
            one.zero_grad()
            with torch.autocast("cpu", dtype=torch.half):
                loss = loss_of(one, step)
            scale.scale(loss).backward()
        if unscale:
            ours.unscale_(opt.optimizer)
        opt.step()
        theirs.unscale_(by_hand)
        if norm_of(gradients_of(reference)) < float("inf"):
            clipped += clip_globally(reference)
            taken += 1
        theirs.step(by_hand)
        theirs.update()
        skipped += opt.step_was_skipped
    assert taken < STEPS
    # A fused optimizer is stepped, and leaves the step out by itself.
    assert skipped == (0 if opt.optimizer.param_groups[0].get("fused") else STEPS - taken)
    assert clipped > 0
    assert_same(model, reference, rtol=2e-5, atol=2e-6)
    assert clipper.clipped_steps == clipped


class InBf16(torch.nn.Module):
    """As Accelerate makes a model: autocast inside, float32 outside."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, rows):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return self.model(rows).float()


@makes
def test_bf16(make):
    accelerator, model, opt, data = prepared(make, mixed_precision="bf16")
    clipper = clipwise.torch.attach(opt, CLIP, model=model)
    train(accelerator, model, opt, data)
    reference = InBf16(make_model())
    clipped = run_by_hand(reference, make(reference.parameters()))
    assert_same(model, reference, rtol=1e-5, atol=1e-6)
    assert clipper.clipped_steps == clipped


def test_a_loop_that_clips_too_is_told_once():
    accelerator, model, opt, data = prepared(OPTIMIZERS["sgd"])
    clipwise.torch.attach(opt, CLIP, model=model)
    with pytest.warns(UserWarning, match="the loop clips too: .*clip_grad_norm_ to 0.5") as told:
        train(accelerator, model, opt, data, clip=0.5)
    assert sum("the loop clips too" in str(one.message) for one in told) == 1


def test_one_that_only_measures_is_not():
    accelerator, model, opt, data = prepared(OPTIMIZERS["sgd"])
    clipwise.torch.attach(opt, CLIP, model=model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(accelerator, model, opt, data, clip=float("inf"))


@makes
def test_saved_and_resumed_by_accelerate(make, tmp_path):
    """`register_for_checkpointing` takes the clipper as it is."""
    made = []
    for _ in range(3):
        accelerator, model, opt, data = prepared(make)
        clipper = clipwise.torch.attach(opt, clipwise.autoclip(60), model=model)
        accelerator.register_for_checkpointing(clipper)
        made.append((accelerator, model, opt, data))
        if len(made) == 1:  # never stopped
            for _ in range(2):
                train(accelerator, model, opt, data)
        elif len(made) == 2:
            train(accelerator, model, opt, data)
            accelerator.save_state(str(tmp_path))
        else:
            accelerator.load_state(str(tmp_path))
            assert clipper.steps == STEPS
            train(accelerator, model, opt, data)
    assert_identical(made[0][1], made[2][1])


def test_no_optimizer():
    accelerator = Accelerator(cpu=True)
    with pytest.raises(clipwise.errors.ArgumentError, match=r"takes a torch.optim.Optimizer.*got Linear"):
        clipwise.torch.attach(accelerator.prepare(torch.nn.Linear(2, 2)), CLIP)
