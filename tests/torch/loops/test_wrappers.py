"""Optimizers around another one, and steps that are called in unusual ways."""

from collections import OrderedDict, defaultdict

import pytest
import torch
import torch.distributed as dist
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


def around(attribute: str, hooks: type | None) -> type:
    """A wrapper as Lookahead is written: without the parent's __init__, which makes steps call hooks."""

    class Around(optim.Optimizer):
        def __init__(self, inner):
            if hooks is not None:  # as most do, since zero_grad makes steps call hooks after all
                self._optimizer_step_pre_hooks = hooks()
                self._optimizer_step_post_hooks = hooks()
            setattr(self, attribute, inner)
            self.param_groups, self.defaults = inner.param_groups, inner.defaults
            self.state = defaultdict(dict)

        @torch.no_grad()
        def step(self, closure=None):
            return getattr(self, attribute).step(closure)

    return Around


FOUND = ["optimizer", "base_optimizer", "_base_optimizer", "optim", "_optimizer"]


@pytest.mark.filterwarnings("ignore:Around steps around this AdamW")
@pytest.mark.parametrize("hooks", [None, OrderedDict, dict])
@pytest.mark.parametrize("closure", [False, True])
@pytest.mark.parametrize("attribute", FOUND)
def test_the_outermost_with_hooks_is_clipped(attribute, closure, hooks):
    ours, reference = make_model(), make_model()
    inner = optim.AdamW(ours.parameters(), lr=0.01)
    opt = around(attribute, hooks)(inner)
    clipper = clipwise.torch.attach(opt, CLIP, model=ours)
    for step in range(STEPS):
        if closure:
            opt.step(torch.enable_grad()(lambda step=step: backward(ours, step)))
        else:
            backward(ours, step)
            opt.step()
    clipped = run_by_hand(reference, optim.AdamW(reference.parameters(), lr=0.01))
    assert_same(ours, reference)
    assert (clipper.steps, clipper.clipped_steps) == (STEPS, clipped)
    assert clipper.optimizer is (inner if hooks is None else opt)


def test_one_that_hides_its_inner_optimizer_is_refused():
    model = make_model()
    inner = optim.AdamW(model.parameters())
    opt = around("hidden", None)(inner)
    with pytest.raises(
        ArgumentError, match=r"Around never calls the hooks of its steps.*attach to its \.hidden"
    ):
        clipwise.torch.attach(opt, CLIP)
    with pytest.raises(ArgumentError, match="Around never calls the hooks"):
        clipwise.torch.attach([optim.SGD(make_model(1).parameters(), lr=0.1), opt], CLIP)
    assert not inner._optimizer_step_pre_hooks


def test_the_optimizer_inside_may_not_be_attached_to_twice():
    inner = optim.SGD(make_model().parameters(), lr=0.1)
    opt = around("optimizer", OrderedDict)(inner)
    with clipwise.torch.attach(inner, CLIP), pytest.raises(ArgumentError, match="attached to this"):
        clipwise.torch.attach(opt, CLIP)
    assert not opt._optimizer_step_pre_hooks


class SAM(optim.Optimizer):
    """Sharpness-aware minimization: up along the gradient, then a step with the gradient found there."""

    def __init__(self, parameters, inner, rho=0.05, **options):
        super().__init__(parameters, {"rho": rho, **options})
        self.base_optimizer = inner(self.param_groups, **options)
        self.param_groups = self.base_optimizer.param_groups

    @torch.no_grad()
    def first_step(self):
        for p in self.param_groups[0]["params"]:
            self.state[p]["old"] = p.clone()
            p.add_(p.grad, alpha=self.param_groups[0]["rho"])

    @torch.no_grad()
    def second_step(self):
        for p in self.param_groups[0]["params"]:
            p.copy_(self.state[p]["old"])
        self.base_optimizer.step()

    @torch.no_grad()
    def step(self, closure):
        self.first_step()
        torch.enable_grad()(closure)()
        self.second_step()


@pytest.mark.parametrize("in_one", [False, True], ids=["two steps", "a closure"])
def test_sam_clips_the_gradient_that_the_inner_step_uses(in_one):
    ours, reference = make_model(), make_model()
    opt, by_hand = (SAM(m.parameters(), optim.SGD, lr=0.1, momentum=0.9) for m in (ours, reference))
    clipper = clipwise.torch.attach(opt, CLIP)
    clipped = 0
    for step in range(STEPS):
        backward(ours, step)
        if in_one:
            opt.step(lambda step=step: backward(ours, step))
        else:
            opt.first_step()
            backward(ours, step)
            opt.second_step()
        backward(reference, step)
        by_hand.first_step()
        backward(reference, step)
        clipped += clip_globally(reference)
        by_hand.second_step()
    assert_same(ours, reference)
    assert (clipper.steps, clipper.clipped_steps) == (STEPS, clipped)
    assert 0 < clipped < STEPS


@pytest.mark.skipif(
    not (dist.is_available() and dist.is_gloo_available()), reason="torch was built without gloo"
)
def test_post_local_sgd(tmp_path):
    from torch.distributed.algorithms.model_averaging.averagers import PeriodicModelAverager
    from torch.distributed.optim import PostLocalSGDOptimizer

    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        ours, reference = make_model(), make_model()
        inner = optim.SGD(ours.parameters(), lr=0.1, momentum=0.9)
        opt = PostLocalSGDOptimizer(inner, PeriodicModelAverager(period=2, warmup_steps=1))
        clipper = clipwise.torch.attach(opt, CLIP)
        for step in range(STEPS):
            backward(ours, step)
            opt.step()
    finally:
        dist.destroy_process_group()
    clipped = run_by_hand(reference, optim.SGD(reference.parameters(), lr=0.1, momentum=0.9))
    assert_same(ours, reference)
    assert (clipper.steps, clipper.clipped_steps) == (STEPS, clipped)


class AsksTheClosure(optim.SGD):
    """Tells its closure what to do, as some optimizers with several evaluations do."""

    def step(self, closure=None):
        with torch.enable_grad():
            loss = closure(True, create_graph=False)
        super().step()
        return loss


def test_a_closure_that_takes_arguments():
    ours, reference = make_model(), make_model()
    opt = AsksTheClosure(ours.parameters(), lr=0.1)
    clipper = clipwise.torch.attach(opt, CLIP)
    given = []
    for step in range(STEPS):

        def closure(again, *, create_graph, step=step):
            given.append((again, create_graph))
            return backward(ours, step)

        loss = opt.step(closure)
        assert isinstance(loss, torch.Tensor)
    clipped = run_by_hand(reference, optim.SGD(reference.parameters(), lr=0.1))
    assert_same(ours, reference)
    assert given == [(True, False)] * STEPS
    assert (clipper.steps, clipper.clipped_steps) == (STEPS, clipped)


class LooksAtTheModel(optim.SGD):
    """Takes the model as its first argument: callable, and no closure."""

    def step(self, model=None):
        self.seen = model
        super().step()


def test_a_step_that_is_given_the_model():
    ours, reference = make_model(), make_model()
    opt = LooksAtTheModel(ours.parameters(), lr=0.1)
    clipper = clipwise.torch.attach(opt, CLIP)
    for step in range(STEPS):
        backward(ours, step)
        opt.step(ours)
        assert opt.seen is ours
        assert isinstance(opt.seen, nn.Module)
    clipped = run_by_hand(reference, optim.SGD(reference.parameters(), lr=0.1))
    assert_same(ours, reference)
    assert (clipper.steps, clipper.clipped_steps) == (STEPS, clipped)
