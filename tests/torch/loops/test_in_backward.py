"""Steps inside backward: one optimizer a parameter, stepping as soon as its gradient is there."""

import pytest
import torch

import clipwise
from clipwise.errors import ArgumentError
from tests.torch.loops.reference_loops import (
    STEPS,
    THRESHOLD,
    assert_same,
    backward,
    clip_each,
    clip_units,
    clip_values,
    loss_of,
    make_model,
    run_by_hand,
)

pytestmark = pytest.mark.device_path

optim = torch.optim
OPTIMIZERS = {
    "sgd": lambda p: optim.SGD(p, lr=0.1, momentum=0.9),
    "adamw fused": lambda p: optim.AdamW(p, lr=0.01, fused=True),
}


def step_in_backward(model, make_optimizer, clip, **options):
    """torch's recipe: a hook that steps and lets the gradient go."""
    optimizers = {p: make_optimizer([p]) for p in model.parameters()}
    clippers = [clipwise.torch.attach(opt, clip, **options) for opt in optimizers.values()]

    def step(p):
        optimizers[p].step()
        optimizers[p].zero_grad()

    for p in model.parameters():
        p.register_post_accumulate_grad_hook(step)
    return clippers


CLIPS = {
    "norm": (clipwise.clip_by_norm(THRESHOLD), clip_each),
    "value": (clipwise.clip_by_value(0.01), clip_values),
    "agc": (clipwise.adaptive_grad_clip(0.01), clip_units),
    "chain": (
        clipwise.chain(clipwise.clip_by_value(0.01), clipwise.clip_by_norm(THRESHOLD)),
        lambda m: clip_values(m) | clip_each(m),
    ),
}


@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_clips_of_each_tensor(optimizer, clip):
    clip, by_hand = CLIPS[clip]
    ours, reference = make_model(), make_model()
    clippers = step_in_backward(ours, OPTIMIZERS[optimizer], clip)
    for step in range(STEPS):
        loss_of(ours, step).backward()
    run_by_hand(reference, OPTIMIZERS[optimizer](reference.parameters()), by_hand)
    assert_same(ours, reference)
    assert [c.steps for c in clippers] == [STEPS] * 4
    assert any(c.clipped_steps for c in clippers)


NEED_ALL = {
    "global": clipwise.clip_by_global_norm(THRESHOLD),
    "autoclip": clipwise.autoclip(10),
    "in a chain": clipwise.chain(clipwise.clip_by_value(0.5), clipwise.clip_by_global_norm(1.0)),
    "in by_name": clipwise.by_name({"*": clipwise.clip_by_global_norm(1.0)}),
    "in both": clipwise.by_name({"*": clipwise.chain(clipwise.clip_by_global_norm(1.0))}),
    "global adagc in warmup": clipwise.adagc(),
}


@pytest.mark.parametrize("clip", NEED_ALL)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_clip_that_needs_all_gradients_is_refused_before_anything_is_touched(optimizer, clip):
    model, untouched = make_model(), make_model()
    clippers = step_in_backward(model, OPTIMIZERS[optimizer], NEED_ALL[clip])
    with pytest.raises(ArgumentError, match="needs all gradients, and this optimizer steps inside backward"):
        loss_of(model, 2).backward()
    assert_same(model, untouched, rtol=0, atol=0)
    last = model[2].bias.grad if model[2].bias.grad is not None else model[2].weight.grad
    backward(untouched, 2)
    expected = untouched[2].bias.grad if model[2].bias.grad is not None else untouched[2].weight.grad
    assert torch.equal(last, expected)
    assert all(c.steps == 0 and not c.optimizer.state.get("step") for c in clippers)


def test_the_same_clip_is_taken_outside_of_backward():
    model = make_model()
    opt = OPTIMIZERS["sgd"](model.parameters())
    clipper = clipwise.torch.attach(opt, clipwise.clip_by_global_norm(THRESHOLD))
    backward(model, 2)
    opt.step()
    assert clipper.clipped_steps == 1


def test_a_step_inside_backward_that_is_skipped():
    """NaN in one tensor: its own optimizer leaves the step out, the others take theirs."""
    model = make_model()
    clippers = step_in_backward(model, OPTIMIZERS["sgd"], clipwise.clip_by_norm(THRESHOLD))
    before = [p.detach().clone() for p in model.parameters()]
    model[2].weight.register_hook(lambda g: g * float("nan"))
    loss_of(model, 2).backward()
    same = [torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True)]
    assert same == [False, False, True, False]
    assert [c.skipped_steps for c in clippers] == [0, 0, 1, 0]
