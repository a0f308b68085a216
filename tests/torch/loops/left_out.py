"""Optimizers that act without gradients too, or take no steps: each in the way of one that people use."""

import types
from collections import OrderedDict, defaultdict

import torch
from torch import nn

optim = torch.optim


def weights_of(optimizer):
    return [p for group in optimizer.param_groups for p in group["params"]]


class Counting(optim.Optimizer):
    def __init__(self, parameters, lr=0.1):
        super().__init__(parameters, {"lr": lr})
        self.setup()

    def setup(self):
        pass

    @torch.no_grad()
    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self.count()
        for p in weights_of(self):
            if p.grad is not None:
                p.sub_(self.rate() * p.grad)
        return loss

    def rate(self):
        return self.param_groups[0]["lr"]


class InGroups(Counting):
    """As Ranger21, Prodigy and sixty others: the rate follows a count of its own."""

    def count(self):
        for group in self.param_groups:
            group["step"] = group.get("step", 0) + 1

    def rate(self):
        return 0.1 / self.param_groups[0]["step"]


class InState(Counting):
    """As A2Grad: a count beside those of the parameters."""

    def count(self):
        self.state["all"]["step"] = self.state["all"].get("step", 0) + 1

    def rate(self):
        return 0.1 / self.state["all"]["step"]


class InItself(Counting):
    def setup(self):
        self.steps, self.rates = torch.zeros(()), []

    def count(self):
        self.steps += 1
        self.rates.append(0.1 / self.steps.item())

    def rate(self):
        return self.rates[-1]


class WritesZeros(Counting):
    """As Keller Jordan's Muon: a parameter without a gradient is given one, and decays."""

    def count(self):
        for p in weights_of(self):
            if p.grad is None:
                p.grad = torch.zeros_like(p)
            momentum = self.state[p].setdefault("momentum", torch.zeros_like(p))
            momentum.lerp_(p.grad, 0.05)
            p.mul_(0.99).sub_(momentum, alpha=0.1)


class DividesByNorms(Counting):
    """As D-Adaptation: divides by a sum over the gradients, which is 0 where there are none."""

    def count(self):
        total = sum(p.grad.abs().sum().item() for p in weights_of(self) if p.grad is not None)
        self.param_groups[0]["d"] = self.param_groups[0].get("d", 1.0) + 1e-3 / total

    def rate(self):
        return 0.1 * self.param_groups[0]["d"]


class ReadsBeside(optim.Optimizer):
    """As TRAC: calls no hooks, and reads the gradients after the step of the optimizer inside."""

    def __init__(self, inner):
        self._optimizer_step_pre_hooks, self._optimizer_step_post_hooks = {}, {}
        self.optimizer, self.defaults = inner, inner.defaults

    param_groups = property(lambda self: self.optimizer.param_groups)
    state = property(lambda self: self.optimizer.state)

    @torch.no_grad()
    def step(self, closure=None):
        with torch.enable_grad():
            loss = self.optimizer.step(closure)
        self.state.setdefault("outer", {"step": 0})["step"] += 1
        for p in weights_of(self):
            if p.grad is not None:
                p.sub_(p.grad, alpha=0.01)
        return loss


class Lookahead(optim.Optimizer):
    """As timm's: after every second step half of the way back."""

    def __init__(self, inner):
        self._optimizer_step_pre_hooks, self._optimizer_step_post_hooks = OrderedDict(), OrderedDict()
        self._base_optimizer, self.defaults = inner, inner.defaults
        self.param_groups, self.state = inner.param_groups, defaultdict(dict)
        self.steps = 0
        self.slow = [p.detach().clone() for p in weights_of(self)]

    @torch.no_grad()
    def step(self, closure=None):
        loss = self._base_optimizer.step(closure)
        self.steps += 1
        if self.steps % 2 == 0:
            for p, slow in zip(weights_of(self), self.slow, strict=True):
                slow.lerp_(p, 0.5)
                p.copy_(slow)
        return loss


class ScheduleFree:
    """As `schedulefree.ScheduleFreeWrapper`: no optimizer, and exchanges weights around the step inside."""

    def __init__(self, base):
        self.base = base

    param_groups = property(lambda self: self.base.param_groups)
    state = property(lambda self: self.base.state)

    def zero_grad(self, set_to_none=True):
        self.base.zero_grad(set_to_none)

    def state_dict(self):
        return self.base.state_dict()

    @torch.no_grad()
    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for p in weights_of(self):
            z = self.state[p].setdefault("z", p.clone())
            p.lerp_(z, 0.5)
            kept = p.clone()
            p.copy_(z)
            z.copy_(kept)
        self.base.step()
        for group in self.param_groups:
            group["k"] = group.get("k", 0) + 1
        for p in weights_of(self):
            z = self.state[p]["z"]
            kept = p.clone()
            p.copy_(z).lerp_(kept, 1 / group["k"]).lerp_(kept, 0.1)
            z.copy_(kept)
        return loss


class Around(optim.Optimizer):
    """Has hooks, and an optimizer inside whose steps it adds to."""

    def __init__(self, parameters):
        super().__init__(parameters, {"lr": 0.1})
        self.optimizer = optim.SGD(self.param_groups, lr=0.1, momentum=0.9)

    @torch.no_grad()
    def step(self, closure=None):
        with torch.enable_grad():
            loss = self.optimizer.step(closure)
        for p in weights_of(self):
            p.mul_(0.99)
            if p.grad is not None:
                p.sub_(p.grad, alpha=0.01)
        return loss


class Child(WritesZeros):
    def step(self, closure=None):
        return super().step(closure)


class Lomo(torch.optim.Optimizer):
    """As in lomo_optim: moves the weights as the gradients come, and takes no steps."""

    def __init__(self, model, lr):
        super().__init__(model.parameters(), {"lr": lr})
        self.model, self.lr = model, lr
        for p in model.parameters():
            p.register_post_accumulate_grad_hook(self.move)

    def move(self, p):
        p.data.copy_(p.data - self.lr * p.grad)
        p.grad = None

    def fused_backward(self, loss, lr):
        self.lr = lr
        loss.backward()


def hand_over(opt):
    """Let the method that everybody calls move the weights past the hooks."""

    @torch.no_grad()
    def step(self, closure=None):
        for p in self.param_groups[0]["params"]:
            p.data -= 0.1 * p.grad

    opt.step = types.MethodType(step, opt)


def torchs() -> dict[str, type]:
    """All of torch's own."""
    found = {name: getattr(optim, name) for name in optim.__all__ if isinstance(getattr(optim, name), type)}
    return {name: kind for name, kind in found.items() if issubclass(kind, optim.Optimizer)}


OWN = {
    **{kind.__name__: kind for kind in (InGroups, InState, InItself, WritesZeros, DividesByNorms, Child)},
    "Around": Around,
    "ReadsBeside": lambda p: ReadsBeside(optim.SGD(p, lr=0.1)),
    "Lookahead": lambda p: Lookahead(optim.AdamW(p, lr=0.01)),
    "Lookahead fused": lambda p: Lookahead(optim.AdamW(p, lr=0.01, fused=True)),
}
TORCHS = {name: kind for name, kind in torchs().items() if name != "Optimizer"}
DECAYING = {
    "SGD with all": lambda p: optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1, nesterov=True),
    "AdamW capturable off": lambda p: optim.AdamW(p, lr=0.01, foreach=True, amsgrad=True),
    "AdamW fused": lambda p: optim.AdamW(p, lr=0.01, fused=True),
}


def make_model(seed: int = 0) -> nn.Module:
    """Of matrices alone, which Muon wants."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8, bias=False), nn.Tanh(), nn.Linear(8, 3, bias=False))
