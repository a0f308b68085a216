"""A script's own calls of torch's clip functions: which act on a step, in every order of a loop."""

import contextlib

import pytest
import torch
from torch import nn
from torch.nn.utils import clip_grad
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from clipwise.monitor.observe.bootstrap.losses import Losses
from clipwise.monitor.observe.bootstrap.own_clips import OwnClips


@contextlib.contextmanager
def listening():
    """What the bootstrap puts into torch, in this process."""
    kept = [(module, dict(vars(module))) for module in (nn.utils, clip_grad)]
    backward, scale = torch.autograd.backward, torch.amp.GradScaler.scale
    losses = Losses()
    clips = OwnClips(losses)
    losses.listen()
    clips.listen()
    hook = register_optimizer_step_post_hook(lambda optimizer, *_: clips.after_step(optimizer))
    try:
        yield clips
    finally:
        hook.remove()
        torch.autograd.backward, torch.amp.GradScaler.scale = backward, scale
        for module, names in kept:
            vars(module).update(names)


class Loop:
    """The parts of a training with two optimizers, in the order that is given."""

    def __init__(self, *, keeps: bool = False, scaled: bool = False) -> None:
        self.model, self.other = (nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1)) for _ in range(2))
        self.optimizers = [torch.optim.SGD(part.parameters(), 0.01) for part in self.model]
        self.used_up = iter([])
        self.keeps, self.scaler = keeps, torch.amp.GradScaler("cpu", init_scale=8.0, enabled=scaled)

    def run(self, order: str, steps: int = 3) -> None:
        for part in order.split() * steps:
            getattr(self, part)()

    def zero(self):
        for one in self.optimizers:
            one.zero_grad(set_to_none=not self.keeps)

    def backward(self):
        self.scaler.scale(self.model(torch.ones(4, 3)).sub(9.0).square().mean()).backward()

    def by_hand(self):
        parameters = [*self.model.parameters()]
        loss = self.model(torch.ones(4, 3)).square().mean()
        for p, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            p.grad = gradient

    def unscale(self):
        for one in self.optimizers:
            self.scaler.unscale_(one)

    def clip(self):
        nn.utils.clip_grad_norm_(self.model.parameters(), 0.1)

    def by_value(self):
        nn.utils.clip_grad_value_(self.model.parameters(), 0.1)

    def of_another(self):
        nn.utils.clip_grad_norm_(self.other.parameters(), 0.1)

    def of_none(self):
        nn.utils.clip_grad_norm_(self.used_up, 0.1)

    def step(self):
        for one in self.optimizers:
            self.scaler.step(one)
        self.scaler.update()

    def second(self):
        self.optimizers[1].step()

    def stepping(self):
        """A hook of the optimizer's own clips, or its step."""

        def clip(*_):
            nn.utils.clip_grad_norm_(self.model.parameters(), 0.1)

        hook = self.optimizers[0].register_step_pre_hook(clip)
        self.step()
        hook.remove()


ACT = (
    *("zero backward clip step", "backward clip step zero", "zero backward by_value step"),
    *("zero backward clip backward clip step", "zero backward unscale clip step", "zero by_hand clip step"),
    *("zero backward stepping", "zero backward second clip step", "zero backward clip clip step step"),
)
DO_NOT = (
    *(
        "zero backward step clip",
        "zero clip backward step",
        "backward step zero clip",
        "clip zero backward step",
    ),
    *("backward step by_value zero", "zero backward of_another step", "zero backward of_none step"),
    *("zero backward backward step clip", "zero backward unscale step clip"),
)


@pytest.mark.filterwarnings("ignore:.*empty generator")
@pytest.mark.parametrize("keeps", [False, True], ids=["no gradients", "zeros"])
def test_in_every_order(keeps):
    found = {}
    for order in (*ACT, *DO_NOT):
        with listening() as clips:
            Loop(keeps=keeps, scaled="unscale" in order).run(order)
        assert clips.made == 3 * sum(order.count(word) for word in ("clip", "by_value", "of_", "stepping"))
        found[order] = clips.acts
    assert found == dict.fromkeys(ACT, True) | dict.fromkeys(DO_NOT, False)


def test_a_call_after_the_step_is_not_that_of_the_next():
    calls, loop = [], Loop()
    present = set(map(id, loop.model.parameters()))
    with listening() as clips:
        hook = register_optimizer_step_pre_hook(lambda one, *_: calls.append(clips.of(one, lambda: present)))
        loop.run("zero backward step clip")
        assert calls == [None] * 6
        loop.run("zero backward clip step")
        hook.remove()
    assert all(calls[6:])
