"""Subclasses that call their parent's step, copies, pickles, and states that are loaded."""

import copy
import pickle

import pytest
import torch
from torch import nn

import clipwise
from clipwise.errors import ArgumentError
from tests.torch.loops.reference_loops import (
    STEPS,
    THRESHOLD,
    assert_same,
    backward,
    clip_globally,
    make_model,
    run_by_hand,
)

optim = torch.optim
CLIP = clipwise.clip_by_global_norm(THRESHOLD)


class Child(optim.SGD):
    def step(self, closure=None):
        return super().step(closure)


class Grandchild(Child):
    def step(self, closure=None):
        return super().step(closure)


class FusedChild(optim.AdamW):
    def step(self, closure=None):
        return super().step(closure)


class OfOnesOwn(optim.Optimizer):
    """Written out in full, as in a paper's repository."""

    def __init__(self, parameters, lr):
        super().__init__(parameters, {"lr": lr})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.sub_(group["lr"] * p.grad)


OPTIMIZERS = {
    "child": lambda p: Child(p, lr=0.1, momentum=0.9),
    "grandchild": lambda p: Grandchild(p, lr=0.1, momentum=0.9),
    "fused child": lambda p: FusedChild(p, lr=0.01, fused=True),
    "of one's own": lambda p: OfOnesOwn(p, 0.1),
    "sgd": lambda p: optim.SGD(p, lr=0.1, momentum=0.9),
    "adamw fused": lambda p: optim.AdamW(p, lr=0.01, fused=True),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_clipped_exactly_once(name):
    optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)  # from here on torch hooks the parents' steps too
    ours, reference = make_model(), make_model()
    clipper = clipwise.torch.attach(opt := OPTIMIZERS[name](ours.parameters()), clipwise.autoclip(60))
    history = []
    opt.register_step_post_hook(lambda *_: history.append(float(clipper.report.norm)))
    for step in range(STEPS):
        backward(ours, step)
        opt.step()
    assert clipper.steps == STEPS
    assert 0 < clipper.clipped_steps < STEPS

    clipper.detach()
    ours = make_model()
    with clipwise.torch.attach(opt := OPTIMIZERS[name](ours.parameters()), CLIP) as clipper:
        for step in range(STEPS):
            backward(ours, step)
            opt.step()
    run_by_hand(reference, OPTIMIZERS[name](reference.parameters()))
    assert_same(ours, reference)
    assert clipper.steps == STEPS


def through_pickle(value):
    return pickle.loads(pickle.dumps(value))


@pytest.mark.parametrize("duplicate", [copy.deepcopy, through_pickle], ids=["deepcopy", "pickle"])
@pytest.mark.parametrize("name", ["sgd", "adamw fused", "child"])
def test_a_copy_has_no_clip_and_takes_one(name, duplicate):
    """The copy steps unclipped, the original is clipped once, and attaching to the copy works."""
    model, plain = make_model(), make_model()
    opt = OPTIMIZERS[name](model.parameters())
    free = OPTIMIZERS[name](plain.parameters())
    clipper = clipwise.torch.attach(opt, CLIP)
    for step in range(4):
        backward(model, step)
        opt.step()
    steps = clipper.steps

    twin, twin_opt = duplicate((model, opt))
    plain.load_state_dict(model.state_dict())
    free.load_state_dict(opt.state_dict())
    backward(twin, 2)
    twin_opt.step()
    backward(plain, 2)
    free.step()
    assert_same(twin, plain, rtol=0, atol=0)
    assert clipper.steps == steps

    again = clipwise.torch.attach(twin_opt, CLIP)
    backward(twin, 5)
    twin_opt.step()
    backward(plain, 5)
    assert clip_globally(plain)
    free.step()
    assert_same(twin, plain)
    assert (again.steps, clipper.steps) == (1, steps)

    backward(model, 5)
    opt.step()
    assert clipper.steps == steps + 1
    assert not hasattr(opt, "grad_scale")


class Trainer:
    def __init__(self):
        self.model = make_model()
        self.opt = OPTIMIZERS["sgd"](self.model.parameters())
        self.clipper = clipwise.torch.attach(self.opt, CLIP, model=self.model)


@pytest.mark.parametrize("after_an_error", [False, True])
def test_a_copy_of_an_object_that_holds_both(after_an_error):
    """The copied clipper is a record only: the copied optimizer steps without it until one is attached."""
    trainer, reference = Trainer(), make_model()
    ref = OPTIMIZERS["sgd"](reference.parameters())
    for step in (1, 2):
        backward(trainer.model, step)
        trainer.opt.step()
        backward(reference, step)
        clip_globally(reference)
        ref.step()
    if after_an_error:

        def broken():
            raise RuntimeError("out of memory")

        with pytest.raises(RuntimeError):
            trainer.opt.step(broken)
    twin = copy.deepcopy(trainer)
    backward(twin.model, 2)
    twin.opt.step()
    assert (twin.clipper.steps, trainer.clipper.steps) == (2, 2)
    clipper = clipwise.torch.attach(twin.opt, CLIP)
    backward(twin.model, 2)
    twin.opt.step()
    assert clipper.steps == 1

    backward(trainer.model, 5)
    trainer.opt.step()
    backward(reference, 5)
    clip_globally(reference)
    ref.step()
    assert_same(trainer.model, reference)
    assert trainer.clipper.steps == 3
    with pytest.raises(ArgumentError, match="attached to this optimizer already"):
        clipwise.torch.attach(trainer.opt, CLIP)


@pytest.mark.parametrize("name", ["sgd", "adamw fused"])
def test_load_state_dict_leaves_the_clip_attached(name):
    ours, reference = make_model(), make_model()
    opt, ref = (OPTIMIZERS[name](m.parameters()) for m in (ours, reference))
    clipper = clipwise.torch.attach(opt, CLIP)
    for step in range(STEPS):
        for model, stepping in ((ours, opt), (reference, ref)):
            backward(model, step)
            if model is reference:
                clip_globally(model)
            stepping.step()
            if step == 3:
                stepping.load_state_dict(copy.deepcopy(stepping.state_dict()))
    assert_same(ours, reference)
    assert clipper.steps == STEPS
