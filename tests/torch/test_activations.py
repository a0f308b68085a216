"""Bounded activations as modules, and around the activations of a model that exists."""

import copy
import io
import pickle
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

import clipwise
from clipwise.errors import ArgumentError, ParameterError, StateError
from clipwise.functional.activations import clamped_swiglu, clipped_relu, pact, soft_cap, split_gate_up
from clipwise.torch.activations import PACT, ClampedSwiGLU, ClippedReLU, HardTanh, SoftCap, clip_activations

X = torch.tensor([[-8.0, -0.5, 0.0, 0.5], [1.0, 3.0, 7.0, float("nan")]])


def same(found, expected):
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)


def test_modules_are_the_functions():
    same(ClippedReLU(2.0)(X), X.clamp(0, 2))
    same(HardTanh(-2, 3.0)(X), X.clamp(-2, 3))
    same(SoftCap(3.0)(X), soft_cap(X, 3.0))
    same(PACT(2.0)(X), X.clamp(0, 2))
    by_channel = PACT(2.0, channels=4)
    with torch.no_grad():
        by_channel.alpha.copy_(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    same(by_channel(X), pact(X, by_channel.alpha, axis=1))
    same(
        ClampedSwiGLU(2.0, 1.0, 0.0)(X), clamped_swiglu(X[:, ::2], X[:, 1::2], limit=2.0, alpha=1.0, offset=0)
    )
    halves = split_gate_up(X, interleaved=False)
    same(ClampedSwiGLU(interleaved=False)(X), clamped_swiglu(*halves))
    assert clipwise.torch.PACT is PACT
    assert repr(ClippedReLU(6)) == "ClippedReLU(6)"
    assert repr(PACT(channels=3)) == "PACT(channels=3, axis=1)"


def test_modules_save_copy_and_run_under_autocast():
    model = nn.Sequential(nn.Linear(4, 4), PACT(3.0, channels=4), SoftCap(2.0), HardTanh(), ClampedSwiGLU())
    again = copy.deepcopy(model)
    again.load_state_dict(model.state_dict())
    x = torch.randn(5, 4)
    same(again(x), model(x))
    with torch.autocast("cpu", torch.bfloat16):
        out = model(x)
    assert out.dtype == torch.bfloat16
    out.sum().backward()
    assert model[1].alpha.grad.dtype == torch.float32


def test_modules_compiled_give_the_same_gradients_too():
    model = nn.Sequential(PACT(0.5, channels=4), ClippedReLU(0.4), HardTanh(), SoftCap(2.0), ClampedSwiGLU())
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    found = []
    for each in (model, compiled):
        model.zero_grad()
        y = each(x)
        y.sum().backward()
        found.append((y, model[0].alpha.grad.clone()))
    same(found[1], found[0])


def test_modules_compiled_for_any_batch():
    act = PACT(0.5, channels=4)
    compiled = torch.compile(act, fullgraph=True, backend="aot_eager", dynamic=True)
    for size in (6, 3, 9):
        x = torch.randn(size, 4)
        same(compiled(x), act(x))


def test_pact_learns_its_bound():
    act = PACT(5.0)
    target = torch.linspace(-1, 4, 50).clamp(0, 2)
    optimizer = torch.optim.SGD(act.parameters(), 0.5)
    for _ in range(100):
        optimizer.zero_grad()
        nn.functional.mse_loss(act(2 * torch.linspace(-1, 4, 50)).clamp(max=5), target).backward()
        optimizer.step()
    assert 1.5 < act.alpha.item() < 2.2


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ClippedReLU(0), "bound"),
        (lambda: HardTanh(1, 1), "low must be below high"),
        (lambda: SoftCap(float("inf")), "cap"),
        (lambda: PACT(float("nan")), "alpha"),
        (lambda: PACT(channels=0), "channels"),
        (lambda: PACT(channels=True), "channels"),
        (lambda: ClampedSwiGLU(limit=-1), "limit"),
        (lambda: ClampedSwiGLU(offset=float("nan")), "offset"),
    ],
)
def test_what_modules_refuse(make, words):
    with pytest.raises(ArgumentError, match=words):
        make()


class Net(nn.Module):
    """Two blocks, an activation that is used twice, and a part that gives two tensors."""

    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Linear(3, 4), nn.ReLU())
        self.second = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
        self.shared = self.also = nn.ReLU6()
        self.pair = nn.GRU(4, 4)

    def forward(self, x):
        return self.also(self.shared(self.second(self.shared(self.first(x)))))


def net():
    torch.manual_seed(0)
    return Net()


INPUT = 20 * torch.randn(64, 3, generator=torch.Generator().manual_seed(1))


def test_bounds_by_name_and_their_removal():
    model, x = net(), INPUT
    before, state = model(x), list(model.state_dict())
    hidden = model.first(x).clamp(max=2.0)
    expected = model.also(model.second(hidden.clamp(0, 6)).clamp(max=1.0))
    with clip_activations(model, {"first.1": 2.0, "second.*1": partial(clipped_relu, bound=1.0)}) as clipped:
        assert clipped.names == ("first.1", "second.1")
        same(model(x), expected)
        assert list(model.state_dict()) == state
    same(model(x), before)
    clip_activations(model, {"first.*": 1e-3}).remove()  # the linear module inside too
    same(model(x), before)


def test_shares_at_the_bounds_are_counted():
    model, x = net(), INPUT
    inner = model.first(x)
    clipped = clip_activations(
        model,
        {"first.1": HardTanh(0.5, 4.0), "second.1": partial(torch.clamp, min=0.5, max=4.0), "shared": None},
    )
    model(x)
    assert clipped.report()["shared"].entries == 3 * 256  # called three times
    assert clipped.report()["shared"].high == 0
    first = clipped.report()["first.1"]
    assert first.entries == inner.numel() == 256
    assert first.low == (inner <= 0.5).float().mean()
    assert first.high == (inner >= 4.0).float().mean()
    assert 0 < first.high < 1
    hidden = model.second[0](model.shared(inner.clamp(0.5, 4.0))).relu()
    second = clipped.report()["second.1"]  # a function: what was lifted and cut
    assert second.low == (hidden < 0.5).float().mean()
    assert second.high == (hidden > 4.0).float().mean()
    model(x)
    assert clipped.report()["first.1"] == type(first)(first.low, first.high, 512)
    assert "first.1" in str(clipped)
    assert "512" in str(clipped)
    clipped.reset()
    assert clipped.report()["first.1"].entries == 0
    clipped.remove()
    model(x)
    assert clipped.report()["first.1"].entries == 0


def test_each_match_learns_a_bound_of_its_own():
    model = net()
    given = PACT(0.5, channels=4)
    clipped = clip_activations(model, {"*.1": given})
    (model.first(INPUT).sum() + model.second(9 * model.first(INPUT).detach()).sum()).backward()
    found = list(clipped.parameters())
    assert len(found) == 2
    assert given.alpha.grad is None
    grads = [p.grad for p in found]
    assert all(g is not None and g.abs().sum() > 0 for g in grads)
    assert not torch.equal(*grads)
    hidden = nn.functional.relu(model.first[0](INPUT))
    assert clipped.report()["first.1"].high == (hidden >= 0.5).float().mean()
    assert list(clipped.modules()) == ["first.1", "second.1"]


def test_learned_bounds_are_saved_and_loaded():
    model = net()
    clipped = clip_activations(model, {"*.1": PACT(0.5, channels=4), "shared": 6.0})
    with torch.no_grad():
        for each in clipped.parameters():
            each.add_(torch.rand(4))
    saved = io.BytesIO()
    torch.save({"model": model.state_dict(), "bounds": clipped.state_dict()}, saved)
    found = torch.load(io.BytesIO(saved.getvalue()))
    assert list(found["bounds"]) == ["first.1.alpha", "second.1.alpha"]
    other = net()
    other.load_state_dict(found["model"])
    again = clip_activations(other, {"*.1": PACT(0.5, channels=4)})
    before = [p.clone() for p in again.parameters()]
    shorter = found["bounds"] | {"second.1.alpha": torch.ones(3)}
    for wrong, words in [
        ({}, "'first.1.alpha' is missing"),
        (found["bounds"] | {"third.alpha": torch.ones(4)}, "'third.alpha' belongs to no module"),
        (shorter, r"'second.1.alpha' is of shape \(3,\) and not \(4,\)"),
    ]:
        with pytest.raises(StateError, match=words):
            again.load_state_dict(wrong)
    assert all(map(torch.equal, before, again.parameters()))
    again.load_state_dict(found["bounds"])
    same(other(INPUT), model(INPUT))


def test_a_copy_of_the_model_has_bounds_and_counts_of_its_own():
    model = net()
    clipped = clip_activations(model, {"*.1": PACT(0.5, channels=4), "shared": None})
    expected = model(INPUT)
    counted = clipped.report()
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        same(other(INPUT), expected)
        with torch.no_grad():
            next(iter(other.first[1]._forward_hooks.values())).act.alpha.zero_()
        assert other.first(INPUT).max() == 0
    assert clipped.report() == counted
    same(model(INPUT), expected)


def test_a_bound_is_in_training_where_the_model_is():
    model = nn.Sequential(nn.Identity())
    with clip_activations(model, {"0": nn.RReLU(0.1, 0.3)}):
        assert len(set(model(torch.full((9,), -1.0)).tolist())) > 1  # random in training
        model.eval()
        same(model(torch.tensor([-1.0])), torch.tensor([-0.2]))
        model.train()
        assert len(set(model(torch.full((9,), -1.0)).tolist())) > 1


def test_what_cannot_be_counted_is_refused():
    for given, words in [
        (ClampedSwiGLU(), r"0: ClampedSwiGLU turned \(2, 4\) into \(2, 2\)"),
        (lambda x: x.clamp_(max=0.1), "0: .*lambda.* returned the tensor it was given"),
        (nn.ReLU(inplace=True), "0: ReLU returned"),
    ]:
        model = nn.Sequential(nn.Identity())
        with clip_activations(model, {"0": given}) as clipped, pytest.raises(ArgumentError, match=words):
            model(X + 0)
        assert clipped.report()["0"].entries == 0
    model = nn.Sequential(nn.Identity())
    with clip_activations(model, {"0": nn.ReLU6(inplace=True)}) as clipped:
        model(X + 0)
    assert clipped.report()["0"].high == 1 / 8  # a module of a bound may: what it cut stands at the bound


@pytest.mark.parametrize("act", [PACT(1.001), PACT(1.001, channels=1, axis=0), ClippedReLU(1.001)])
def test_an_entry_is_counted_against_the_bound_that_cuts_it(act):
    model = nn.Sequential(nn.Identity())
    with clip_activations(model, {"0": act}) as clipped:
        model(torch.ones(5, dtype=torch.bfloat16))  # where 1.001 is 1
    assert clipped.report()["0"].high == 1


def test_counting_goes_through_the_compiler():
    model = net()
    clipped = clip_activations(model, {"first.1": 2.0, "second.1": PACT(1.0)})
    expected = model(INPUT)
    counts = clipped.report()
    clipped.reset()
    same(torch.compile(model, backend="aot_eager")(INPUT), expected)
    assert clipped.report() == counts


def test_what_wrapping_refuses_before_it_touches_the_model():
    model = net()
    for activations, error, words in [
        ({"frist.1": 2.0}, ParameterError, "'frist.1' matches no module. Did you mean 'first.1'"),
        ({"*.1": 2.0, "first.1": 1.0}, ParameterError, "'first.1' matches no module before another"),
        ({"first.1": None}, ArgumentError, "first.1 is a ReLU, which has no bounds"),
        ({"first.1": -2.0}, ArgumentError, "bound must be"),
        ({"first.1": "relu"}, ArgumentError, "'first.1': expected a module"),
        ({"first.1": True}, ArgumentError, "'first.1': expected a module"),
        ({}, ArgumentError, "activations must map"),
        ([6.0], ArgumentError, "activations must map"),
    ]:
        with pytest.raises(error, match=words.replace(".", r"\.")):
            clip_activations(model, activations)
        assert not any(m._forward_hooks for m in model.modules())
    with clip_activations(model, {"pair": 2.0}), pytest.raises(ArgumentError, match="pair returns tuple"):
        model.pair(torch.zeros(1, 4))


def test_a_half_precision_model_and_nan():
    model = nn.Sequential(nn.Identity(), nn.ReLU()).bfloat16()
    with clip_activations(model, {"1": 2.0}) as clipped:
        out = model(X.bfloat16())
    assert out.dtype == torch.bfloat16
    assert np.isnan(float(out[1, 3]))
    assert clipped.report()["1"].high == 2 / 8


def test_an_entry_on_a_bound_is_at_it():
    model = nn.Sequential(nn.Identity(), nn.Identity(), nn.ReLU6())
    with clip_activations(model, {"0": HardTanh(-1, 2), "2": None}) as clipped:
        model(torch.tensor([-1.0, 0.0, 2.0, 2.0, 1.0]))
    assert (clipped.report()["0"].low, clipped.report()["0"].high) == (1 / 5, 2 / 5)
    assert (clipped.report()["2"].low, clipped.report()["2"].high) == (2 / 5, 0)
