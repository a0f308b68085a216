"""ZeRO for real, in a group of one; DeepSpeed and Megatron by the modules that their classes come from."""

import copy

import pytest
import torch
import torch.distributed as dist
from torch.distributed.optim import ZeroRedundancyOptimizer

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
needs_gloo = pytest.mark.skipif(
    not (dist.is_available() and dist.is_gloo_available()), reason="torch was built without gloo"
)


@pytest.fixture
def group(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def zero(model, kind=optim.AdamW, **options):
    return ZeroRedundancyOptimizer(model.parameters(), kind, lr=0.01, **options)


@needs_gloo
@pytest.mark.usefixtures("group")
class TestZero:
    @pytest.mark.parametrize("options", [{}, {"fused": True}, {"foreach": True}], ids=str)
    def test_attached_to_it(self, options):
        ours, reference = make_model(), make_model()
        opt = zero(ours, **options)
        clipper = clipwise.torch.attach(opt, CLIP, model=ours)
        for step in range(STEPS):
            backward(ours, step)
            opt.step()
        clipped = run_by_hand(reference, optim.AdamW(reference.parameters(), lr=0.01, **options))
        assert_same(ours, reference)
        assert (clipper.steps, clipper.clipped_steps) == (STEPS, clipped)

    def test_with_a_closure(self):
        ours, reference = make_model(), make_model()
        opt = zero(ours)
        clipwise.torch.attach(opt, CLIP)
        for step in range(STEPS):
            opt.step(lambda step=step: backward(ours, step))
        run_by_hand(reference, optim.AdamW(reference.parameters(), lr=0.01))
        assert_same(ours, reference)

    def test_one_that_steps_inside_backward(self):
        with pytest.raises(ArgumentError, match="leave overlap_with_ddp out"):
            clipwise.torch.attach(zero(make_model(), overlap_with_ddp=True), CLIP)

    @pytest.mark.parametrize("among_others", [False, True])
    def test_attached_to_what_it_holds_inside(self, among_others):
        """Refused when it steps, before anything is touched; also if another optimizer steps first."""
        model, other = make_model(), make_model(1)
        opt = zero(model)
        extra = [optim.SGD(other.parameters(), lr=0.1)] if among_others else []
        clipper = clipwise.torch.attach([*extra, opt.optim], CLIP)
        for one in extra:
            backward(other, 2)
            one.step()
        backward(model, 2)
        before = copy.deepcopy([(p.detach(), p.grad) for p in model.parameters()])
        with pytest.raises(ArgumentError, match="attach to the ZeroRedundancyOptimizer itself"):
            opt.step()
        for p, (value, gradient) in zip(model.parameters(), before, strict=True):
            assert torch.equal(p, value)
            assert torch.equal(p.grad, gradient)
        assert not opt.optim.state
        assert clipper.steps == len(extra)


def from_module(kind: type, module: str) -> type:
    kind.__module__ = module
    return kind


class Holds:
    """An engine's optimizer around an ordinary one, as DeepSpeed and Megatron build theirs."""

    def __init__(self, inner):
        self.optimizer = inner

    def step(self):
        self.optimizer.step()


ENGINES = {
    "deepspeed.runtime.zero.stage_1_and_2": '"gradient_clipping" in its configuration',
    "deepspeed.runtime.bf16_optimizer": '"gradient_clipping" in its configuration',
    "megatron.core.optimizer.distrib_optimizer": "--clip-grad, or clip_grad in its OptimizerConfig",
    "colossalai.zero.low_level.low_level_optim": r"max_norm \(clip_grad_norm\) of its plugin",
}


@pytest.mark.parametrize("module", ENGINES)
class TestByName:
    def test_the_engines_own(self, module):
        engine = from_module(type("Theirs", (Holds,), {}), module)(
            optim.SGD(make_model().parameters(), lr=0.1)
        )
        with pytest.raises(
            ArgumentError, match=f"Theirs holds a part of the gradients only.*{ENGINES[module]}"
        ):
            clipwise.torch.attach(engine, CLIP)
        assert not engine.optimizer._optimizer_step_pre_hooks

    def test_in_a_wrapper_of_a_trainer(self, module):
        inner = optim.SGD(make_model().parameters(), lr=0.1)
        engine = from_module(type("Theirs", (optim.SGD,), {}), module)(inner.param_groups, lr=0.1)
        with pytest.raises(ArgumentError, match=ENGINES[module]):
            clipwise.torch.attach(Holds(engine), CLIP)

    def test_a_child_of_theirs(self, module):
        parent = from_module(type("Theirs", (optim.SGD,), {}), module)
        child = type("Mine", (parent,), {})
        with pytest.raises(ArgumentError, match=f"Mine holds.*{ENGINES[module]}"):
            clipwise.torch.attach(child(make_model().parameters(), lr=0.1), CLIP)

    def test_the_inner_one(self, module):
        """It looks like any other until the engine steps it."""
        model, untouched = make_model(), make_model()
        inner = optim.SGD(model.parameters(), lr=0.1)
        engine = from_module(type("Theirs", (Holds,), {}), module)(inner)
        clipper = clipwise.torch.attach(inner, CLIP)
        backward(model, 2)
        backward(untouched, 2)
        with pytest.raises(ArgumentError, match=f"SGD holds.*{ENGINES[module]}"):
            engine.step()
        assert_same(model, untouched, rtol=0, atol=0)
        for p, q in zip(model.parameters(), untouched.parameters(), strict=True):
            assert torch.equal(p.grad, q.grad)
        assert clipper.steps == 0
        assert not inner.state


def test_parameters_that_zeros_third_stage_has_taken_apart():
    model = make_model()
    for p in model.parameters():
        p.ds_id = 0
    with pytest.raises(ArgumentError, match='"gradient_clipping" in its configuration'):
        clipwise.torch.attach(optim.AdamW(model.parameters()), CLIP)


def test_a_wrapper_of_nobody_in_particular_is_unwrapped():
    ours, reference = make_model(), make_model()
    opt = Holds(optim.AdamW(ours.parameters(), lr=0.01))
    clipwise.torch.attach(opt, CLIP)
    for step in range(STEPS):
        backward(ours, step)
        opt.step()
    run_by_hand(reference, optim.AdamW(reference.parameters(), lr=0.01))
    assert_same(ours, reference)
    backward(reference, 2)
    assert clip_globally(reference)
