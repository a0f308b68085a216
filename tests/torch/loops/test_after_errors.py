"""After a step, a call or a state that raised: everything is as it was, and the next step is right."""

import copy
import dataclasses
import math
from typing import ClassVar, NamedTuple

import pytest
import torch
from torch import Tensor, nn

import clipwise
from clipwise.errors import ArgumentError, ClipwiseError, NonFiniteError, StateError
from clipwise.torch.engines import choice
from tests.torch.loops.reference_loops import (
    STEPS,
    THRESHOLD,
    assert_identical,
    assert_same,
    backward,
    clip_globally,
    gradients_of,
    loss_of,
    make_model,
)

pytestmark = pytest.mark.device_path

optim = torch.optim
CLIP = clipwise.clip_by_global_norm(THRESHOLD)
KINDS = {
    "sgd": lambda p: optim.SGD(p, lr=0.1, momentum=0.9),
    "adamw": lambda p: optim.AdamW(p, lr=0.01),
    "fused": lambda p: optim.AdamW(p, lr=0.01, fused=True),
    "fused sgd": lambda p: optim.SGD(p, lr=0.1, fused=True),
}


class Stopped(BaseException):
    """As a KeyboardInterrupt, from inside a step."""


def stopping(opt: optim.Optimizer, *, at: int) -> None:
    """Let one step of an optimizer raise at its end, before what is attached later hears of it."""
    taken = [0]

    def stop(*_):
        taken[0] += 1
        if taken[0] == at + 1:
            raise Stopped

    opt.register_step_post_hook(stop)


def told(opt: optim.Optimizer) -> list[str]:
    return [name for name in ("grad_scale", "found_inf") if hasattr(opt, name)]


class TestAStepThatRaised:
    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("way", ["with", "detach"])
    @pytest.mark.parametrize("bad", [False, True], ids=["clipped", "skipped"])
    def test_leaves_nothing_behind_once_detached(self, kind, way, bad):
        model = make_model()
        opt = KINDS[kind](model.parameters())
        stopping(opt, at=0)
        backward(model, 2)
        if bad:
            model[0].bias.grad[1] = math.nan
        before = [p.grad for p in model.parameters()]
        clipper = clipwise.torch.attach(opt, CLIP)
        if way == "with":
            with pytest.raises(Stopped), clipper:
                opt.step()
        else:
            with pytest.raises(Stopped):
                opt.step()
            clipper.detach()
        assert told(opt) == []
        assert all(p.grad is g for p, g in zip(model.parameters(), before, strict=True))
        assert not opt._optimizer_step_pre_hooks

        # What follows is a plain step.
        reference = make_model()
        reference.load_state_dict(model.state_dict())
        plain = KINDS[kind](reference.parameters())
        plain.load_state_dict(copy.deepcopy(opt.state_dict()))
        for m, o in ((model, opt), (reference, plain)):
            backward(m, 5)
            o.step()
        assert_identical(model, reference)

    @pytest.mark.parametrize("kinds", [("sgd", "fused"), ("fused", "adamw")])
    def test_leaves_nothing_behind_in_several(self, kinds):
        model = make_model()
        both = [KINDS[k](part.parameters()) for k, part in zip(kinds, (model[0], model[2]), strict=True)]
        stopping(both[0], at=0)
        clipper = clipwise.torch.attach(both, CLIP)
        backward(model, 2)
        model[0].bias.grad[1] = math.nan
        before = [p.grad for p in model.parameters()]
        with pytest.raises(Stopped):
            both[0].step()
        clipper.detach()
        assert all(p.grad is g for p, g in zip(model.parameters(), before, strict=True))
        assert [told(opt) for opt in both] == [[], []]

    @pytest.mark.parametrize("kind", KINDS)
    def test_is_followed_by_steps_that_are_clipped(self, kind):
        ours, reference = make_model(), make_model()
        opt, by_hand = (KINDS[kind](m.parameters()) for m in (ours, reference))
        stopping(opt, at=2)
        clipper = clipwise.torch.attach(opt, CLIP)
        clipped = 0
        for step in range(STEPS):
            backward(ours, step)
            if step == 2:
                with pytest.raises(Stopped):
                    opt.step()
            else:
                opt.step()
            backward(reference, step)
            clipped += clip_globally(reference)
            by_hand.step()
        assert_same(ours, reference)
        assert (clipper.steps, clipper.clipped_steps) == (STEPS, clipped)

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("several", [False, True], ids=["one", "two"])
    def test_nan_that_it_used_does_not_come_back(self, kind, several):
        """The skipped step took the gradients away and raised; the next has gradients for others only."""
        ours, reference = (nn.Sequential(make_model(0)[0], make_model(0)[2]) for _ in range(2))
        opt, by_hand = (KINDS[kind](m.parameters()) for m in (ours, reference))
        stopping(opt, at=0)
        other = [KINDS[kind](make_model(1).parameters())] if several else []
        clipper = clipwise.torch.attach([opt, *other], CLIP, model=None if several else ours)
        (ours[0].weight * math.nan).sum().backward()
        with pytest.raises(Stopped):
            opt.step()
        assert clipper.report.skipped
        for model, one in ((ours, opt), (reference, by_hand)):
            model.zero_grad()
            model[1].weight.square().sum().backward()
            if model is reference:
                assert clip_globally(reference)
            one.step()
        assert not clipper.report.skipped
        assert clipper.skipped_steps == 1
        assert all(p.grad is None for p in ours[0].parameters())
        assert_same(ours, reference)


def bits(tensor: Tensor) -> list:
    dense = tensor.to_dense() if tensor.is_sparse else tensor
    return dense.view(torch.int32).tolist()


def sparse_axes(count: int) -> Tensor:
    """A (4, 4) gradient with one or two sparse axes."""
    dense = torch.zeros(4, 4)
    dense[0, 1], dense[1, 2] = 5.0, -7.0
    return dense.to_sparse(count)


ON_TWO_AXES = {
    "chain": clipwise.chain(CLIP, clipwise.Clip(1.0, per="unit")),
    "chain, value first": clipwise.chain(clipwise.clip_by_value(0.5), clipwise.Clip(1.0, per="unit")),
    "by name": clipwise.by_name({"a": CLIP, "b": clipwise.Clip(1.0, per="unit")}),
}
WITHOUT_0 = {
    "chain": clipwise.chain(CLIP, clipwise.clip_by_value(low=0.1, high=2.0)),
    "by name": clipwise.by_name({"a": CLIP, "b": clipwise.clip_by_value(low=0.1, high=2.0)}),
}


class TestAClipThatCannotBe:
    def check(self, clip, axes, message):
        a, b = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(4, 4))
        a.grad, b.grad = torch.full((3,), 3.0), sparse_axes(axes)
        before = [bits(a.grad), bits(b.grad)]
        pairs = [("a", a), ("b", b)]
        with pytest.raises(ClipwiseError, match=message):
            clipwise.torch.clip_(pairs, clip)
        assert [bits(a.grad), bits(b.grad)] == before
        clipper = clipwise.torch.Clipper(pairs, clip)
        with pytest.raises(ClipwiseError, match=message):
            clipper.clip_()
        assert [bits(a.grad), bits(b.grad)] == before
        opt = optim.SGD(pairs, lr=0.1)
        with clipwise.torch.attach(opt, clip), pytest.raises(ClipwiseError, match=message):
            opt.step()
        assert [bits(a.grad), bits(b.grad)] == before
        assert torch.equal(a, torch.zeros(3))
        assert torch.equal(b, torch.zeros(4, 4))

    @pytest.mark.parametrize("name", ON_TWO_AXES)
    def test_units_of_a_gradient_with_two_sparse_axes(self, name):
        self.check(ON_TWO_AXES[name], 2, "sparse")

    @pytest.mark.parametrize("name", ON_TWO_AXES)
    def test_with_one_it_can(self, name):
        a, b = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(4, 4))
        a.grad, b.grad = torch.full((3,), 3.0), sparse_axes(1)
        assert clipwise.torch.clip_([("a", a), ("b", b)], ON_TWO_AXES[name]).clipped

    @pytest.mark.parametrize("name", WITHOUT_0)
    def test_a_range_that_0_is_not_in(self, name):
        self.check(WITHOUT_0[name], 1, "sparse")


BAD_STATES = {
    "text": {"steps": "x"},
    "nothing": {"steps": None},
    "a list": {"clipped_steps": [1]},
    "NaN": {"skipped_steps": math.nan},
    "thresholds": {"thresholds": 3},
    "version": {"version": "x"},
}


class TestAStateThatIsNone:
    @pytest.mark.parametrize("name", BAD_STATES)
    @pytest.mark.parametrize("attached", [False, True], ids=["Clipper", "attach"])
    def test_changes_nothing(self, name, attached):
        def build():
            model = make_model()
            opt = optim.SGD(model.parameters(), lr=0.1)
            clip = clipwise.autoclip(50)
            clipper = clipwise.torch.attach(opt, clip) if attached else clipwise.torch.Clipper(model, clip)

            def take(step):
                backward(model, step)
                if not attached:
                    clipper.clip_()
                opt.step()

            return model, clipper, take, opt

        (ours, clipper, take, _opt), (reference, never_asked, take_too, _) = build(), build()
        _, other, take_other, _ = build()
        for step in range(4):
            take(step)
            take_too(step)
            take_other(step + 5)
        with pytest.raises(StateError):
            clipper.load_state_dict(other.state_dict() | BAD_STATES[name])
        assert (clipper.steps, clipper.clipped_steps) == (never_asked.steps, never_asked.clipped_steps)
        for step in range(4, STEPS):
            take(step)
            take_too(step)
            assert float(clipper.report.threshold) == float(never_asked.report.threshold)
        assert_identical(ours, reference)

    def test_a_clip_of_weights_that_is_none_takes_nothing_of_the_rest(self):
        model = make_model()
        opt = optim.SGD(model.parameters(), lr=0.1)
        clipper = clipwise.torch.attach(opt, clipwise.autoclip(50), weights=clipwise.clip_by_value(1.0))
        state = clipper.state_dict()
        for step in range(3):
            backward(model, step)
            opt.step()
        for wrong in ("x", 3, None, {"version": 1}):
            with pytest.raises(StateError):
                clipper.load_state_dict(state | {"weights": wrong})
            assert (clipper.steps, clipper.weights.steps) == (3, 3)


class _Nothing(NamedTuple):
    pass


@dataclasses.dataclass(frozen=True)
class TheLoss:
    """A threshold that is the loss itself, so that a report tells what was observed."""

    needs: ClassVar[frozenset[str]] = frozenset({"loss"})
    wants: ClassVar[frozenset[str]] = frozenset()
    remembers: ClassVar[bool] = False
    watches_norm: ClassVar[bool] = False

    def init(self, xp, shape):
        return _Nothing()

    def update(self, xp, state, seen):
        return xp.asarray(seen.loss), state


class TestALossOfAStepThatRaised:
    def test_nonfinite(self):
        model = make_model()
        opt = optim.SGD(model.parameters(), lr=0.1)
        clipper = clipwise.torch.attach(opt, clipwise.Clip(TheLoss()), nonfinite="error")
        backward(model, 0)
        model[0].bias.grad[1] = math.inf
        clipper.observe(1000.0)
        with pytest.raises(NonFiniteError):
            opt.step()
        backward(model, 0)
        clipper.observe(2.0)
        clipper.observe(4.0)
        opt.step()
        assert float(clipper.report.threshold) == 3.0

    def test_a_clipper_of_ones_own(self):
        model = make_model()
        clipper = clipwise.torch.Clipper(model, clipwise.Clip(TheLoss()), nonfinite="error")
        for bad, loss in ((True, 1000.0), (True, torch.tensor(500.0)), (False, 3.0)):
            backward(model, 0)
            clipper.observe(loss)
            if bad:
                model[0].bias.grad[1] = math.nan
                with pytest.raises(NonFiniteError):
                    clipper.clip_()
        assert float(clipper.clip_().threshold) == 3.0

    def test_of_a_closure(self):
        """Its loss is observed by itself, after each evaluation: that of a bad one is not the next one's."""
        model = make_model()
        opt = optim.SGD(model.parameters(), lr=0.1)
        clipper = clipwise.torch.attach(opt, clipwise.Clip(TheLoss()), nonfinite="error")

        def bad():
            backward(model, 0)
            model[0].bias.grad[1] = math.nan
            return torch.tensor(1000.0)

        with pytest.raises(NonFiniteError):
            opt.step(bad)
        loss = opt.step(lambda: backward(model, 0))
        assert float(clipper.report.threshold) == pytest.approx(loss.item(), rel=1e-6)


def test_an_engine_that_does_not_exist_is_told_when_a_clip_is_attached(monkeypatch):
    model = make_model()
    opt = optim.SGD(model.parameters(), lr=0.1)
    monkeypatch.setenv("CLIPWISE_ENGINE", "fast")
    choice.forget()
    try:
        with pytest.raises(ArgumentError, match=r"CLIPWISE_ENGINE must be one of .*, got 'fast'"):
            clipwise.torch.attach(opt, CLIP)
        with pytest.raises(ArgumentError, match=r"CLIPWISE_ENGINE must be one of .*, got 'fast'"):
            clipwise.torch.Clipper(model, CLIP)
    finally:
        monkeypatch.undo()
        choice.forget()
    assert not opt._optimizer_step_pre_hooks
    loss_of(model, 2).backward()
    before = [g.clone() for g in gradients_of(model)]
    opt.step()
    assert all(torch.equal(a, b) for a, b in zip(gradients_of(model), before, strict=True))
