"""A step that is left out is as if it had never been, whatever the optimizer does in a step."""

import copy
import functools
import math
import warnings

import pytest
import torch

import clipwise
from clipwise.errors import ArgumentError
from tests.torch.loops.left_out import DECAYING, OWN, TORCHS, ScheduleFree, make_model, weights_of
from tests.torch.loops.reference_loops import assert_identical, batch

MEASURE = clipwise.clip_by_global_norm(math.inf)
OPTIMIZERS = {**TORCHS, **DECAYING, **OWN}


def everything(opt):
    """All that an optimizer keeps; the parameters themselves apart."""
    plain = int | list | torch.Tensor
    kept = {name: one for name, one in vars(opt).items() if isinstance(one, plain) and "param" not in name}
    groups = [{key: one for key, one in group.items() if key != "params"} for group in opt.param_groups]
    places = {id(p): place for place, p in enumerate(weights_of(opt))}
    # A fused one makes its state before the device leaves the step out: all of it is 0, as at the start.
    fused = any(group.get("fused") for group in opt.param_groups)
    made = {key: one for key, one in opt.state.items() if not fused or any(x.any() for x in one.values())}
    state = {places.get(id(key), key): one for key, one in made.items()}
    return copy.deepcopy((kept, groups, state))


def assert_equal(a, b):
    assert type(a) is type(b)
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_equal(a[key], b[key])
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for one, other in zip(a, b, strict=True):
            assert_equal(one, other)
    else:
        assert a == b


def evaluation(model, opt, step, *, bad=False):
    def backward():
        opt.zero_grad()
        loss = model(batch(step)).square().mean() * 10
        loss.backward()
        if bad:
            model[2].weight.grad[1, 2] = math.nan
        if "Sparse" in type(opt).__name__:
            for p in model.parameters():
                p.grad = p.grad.to_sparse()
        return loss

    return backward


@pytest.mark.parametrize("closure", [False, True], ids=["", "closure"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_as_if_it_had_never_been(name, closure):
    if name == "LBFGS" and not closure:
        pytest.skip("it takes steps with a closure only")
    ours, reference = make_model(), make_model()
    opt, ref = (OPTIMIZERS[name](list(m.parameters())) for m in (ours, reference))
    heard = []
    with clipwise.torch.attach(opt, MEASURE, model=ours) as clipper:
        for optimizer in clipper.optimizers:
            optimizer.register_step_post_hook(lambda *_: heard.append(clipper.steps))
        for step in range(6):
            bad = step in (0, 3) and (name != "LBFGS" or step)  # it begins to count before its closure
            for model, one in ((ours, opt), (reference, ref)):
                if bad and one is ref:
                    continue
                evaluate = evaluation(model, one, step, bad=bad)
                before = [p.detach().clone() for p in model.parameters()], everything(one)
                if closure:
                    loss = one.step(evaluate)
                    assert isinstance(loss, torch.Tensor)
                else:
                    evaluate()
                    one.step()
                if bad:
                    assert clipper.report.skipped
                    assert_equal(before, ([p.detach() for p in model.parameters()], everything(one)))
                    gradient = model[2].weight.grad.to_dense()
                    assert gradient.isnan().sum() == 1  # it is there to look at
            assert_identical(ours, reference)
            assert_equal(everything(opt), everything(ref))
    assert clipper.skipped_steps == 2 - (name == "LBFGS")
    if name != "LBFGS":
        assert clipper.steps == 6
    # What is detached steps as ever, and takes another clip.
    for model, one in ((ours, opt), (reference, ref)):
        one.step(evaluation(model, one, 7))
    assert_identical(ours, reference)
    clipwise.torch.attach(opt, MEASURE).detach()
    assert "step" not in vars(opt)


def test_in_the_middle_of_a_step_it_is_halted():
    """Weights that were moved before the closure is evaluated come back as the optimizer brings them back."""

    class Sharp(torch.optim.SGD):
        def step(self, closure):
            with torch.no_grad():
                for p in weights_of(self):
                    p.add_(0.25)
            loss = closure()
            with torch.no_grad():
                for p in weights_of(self):
                    p.sub_(0.25)
            super().step()
            return loss

    model = make_model()
    opt = Sharp(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    clipper = clipwise.torch.attach(opt, MEASURE)
    before = [p.detach().clone() for p in model.parameters()]
    opt.step(evaluation(model, opt, 0, bad=True))
    assert clipper.report.skipped
    for p, old in zip(model.parameters(), before, strict=True):
        torch.testing.assert_close(p.detach(), old, rtol=0, atol=1e-7)
    assert not opt.state


def test_a_veto_leaves_it_out_too():
    model = make_model()
    opt = OWN["WritesZeros"](model.parameters())
    clipper = clipwise.torch.attach(opt, MEASURE, nonfinite="propagate")
    clipper.veto(lambda *_: True)
    before = [p.detach().clone() for p in model.parameters()], everything(opt)
    evaluation(model, opt, 0)()
    opt.step()
    assert_equal(before, ([p.detach() for p in model.parameters()], everything(opt)))


def test_several_are_left_out_together():
    first, second = make_model(0), make_model(1)
    both = [OWN["WritesZeros"](first.parameters()), OWN["InGroups"](second.parameters())]
    clipper = clipwise.torch.attach(both, MEASURE)
    for model, one in zip((first, second), both, strict=True):
        evaluation(model, one, 0, bad=model is second)()
    before = [everything(one) for one in both], [p.detach().clone() for p in first.parameters()]
    for one in both:
        one.step()
    assert_equal(before, ([everything(one) for one in both], [p.detach() for p in first.parameters()]))
    assert (clipper.steps, clipper.skipped_steps) == (1, 1)


class TestWhatIsAround:
    def test_without_hooks_is_refused_and_the_way_out_is_named(self):
        opt = ScheduleFree(torch.optim.SGD(make_model().parameters(), lr=0.1))
        with pytest.raises(ArgumentError, match=r"ScheduleFree is not a .*attach to its \.base, with nonfin"):
            clipwise.torch.attach(opt, MEASURE)

    @pytest.mark.parametrize("nonfinite", ["skip", "zero"])
    def test_is_named_at_the_first_step_where_it_matters(self, nonfinite):
        model = make_model()
        opt = ScheduleFree(torch.optim.SGD(model.parameters(), lr=0.1))
        clipwise.torch.attach(opt.base, MEASURE, nonfinite=nonfinite)
        for step in range(2):
            evaluation(model, opt, step, bad=nonfinite == "zero")()
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                opt.step()
            said = [str(warning.message) for warning in caught]
            assert len(said) == (nonfinite == "skip" and step == 0)
            assert all("ScheduleFree steps around this SGD" in one and "'zero'" in one for one in said)
        assert all(p.isfinite().all() for p in model.parameters())

    @pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Optimizer])
    def test_with_the_name_and_the_marks_of_another_step(self, kind):
        """torch takes a step for one that calls hooks by an attribute, which `functools.wraps` copies."""
        torch.optim.SGD(make_model().parameters())  # marks the class

        class SGD(kind):
            count = 0

            @functools.wraps(torch.optim.SGD.step)
            def step(self, closure=None):
                self.count += 1
                if kind is torch.optim.SGD:
                    super().step()
                with torch.no_grad():
                    for p in weights_of(self):
                        p.mul_(0.99)

        model = make_model()
        opt = SGD(model.parameters(), **({"lr": 0.1} if kind is torch.optim.SGD else {"defaults": {}}))
        heard = []
        opt.register_step_post_hook(lambda *_: heard.append(opt.count))
        with clipwise.torch.attach(opt, MEASURE, weights="clip_by_value(0.25)") as clipper:
            for step in range(2):
                evaluation(model, opt, step, bad=step == 0)()
                before = [p.detach().clone() for p in model.parameters()]
                opt.step()
                same = [torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True)]
                assert same == [step == 0] * 2
        assert (clipper.steps, clipper.skipped_steps, opt.count) == (2, 1, 1)
        assert max(p.abs().max().item() for p in model.parameters()) == 0.25
        assert heard[0] == 0
        assert heard[-1] == 1

    def test_what_decorates_a_step_calls_no_hook_twice(self):
        """As `torch.compile` decorates that of LBFGS, when it is first used."""

        class Decorated(torch.optim.SGD):
            def step(self, closure=None):
                return super().step(closure)

        model, heard = make_model(), []
        opt = Decorated(model.parameters(), lr=0.1)
        wrapper = Decorated.step
        Decorated.step = functools.wraps(wrapper)(lambda self, closure=None: wrapper(self, closure))
        clipwise.torch.attach(opt, MEASURE)
        opt.register_step_pre_hook(lambda *_: heard.append(1))
        evaluation(model, opt, 0)()
        opt.step()
        assert len(heard) == 2  # of the class, and of its parent


@pytest.mark.parametrize("closure", [False, True], ids=["", "closure"])
def test_hooks_that_come_later_may_name_the_optimizer_themselves(closure):
    model = make_model()
    opt = OWN["WritesZeros"](model.parameters())
    clipper = clipwise.torch.attach(opt, MEASURE)
    seen = []

    def again(optimizer, args, kwargs):
        seen.append((args[0], *args[0].param_groups))
        return (optimizer, *args[1:]), dict(kwargs)

    opt.register_step_pre_hook(again)
    opt.register_step_post_hook(lambda _, args, kwargs: seen.append((args[0], *args[0].param_groups)))
    before = [p.detach().clone() for p in model.parameters()], everything(opt)
    evaluate = evaluation(model, opt, 0, bad=True)
    if closure:
        opt.step(evaluate)
    else:
        evaluate()
        opt.step()
    assert clipper.skipped_steps == 1
    assert_equal(before, ([p.detach() for p in model.parameters()], everything(opt)))
    assert all(one is opt for one, _ in seen)
    assert seen[0][1] is seen[1][1] is opt.param_groups[0]
    assert len(seen) == 2


def test_a_hook_that_raises_leaves_nothing_behind():
    model = make_model()
    opt = torch.optim.SGD(model.parameters(), lr=0.25)
    clipper = clipwise.torch.attach(opt, MEASURE)
    ends = opt.register_step_pre_hook(lambda *_: 1 / 0)
    evaluation(model, opt, 0, bad=True)()
    with pytest.raises(ZeroDivisionError):
        opt.step()
    ends.remove()
    before = [p.detach().clone() for p in model.parameters()]
    evaluation(model, opt, 0)()
    opt.step()
    assert (clipper.steps, clipper.skipped_steps) == (2, 1)
    assert not any(torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))
