"""Numbers of per-example clipping that could be wrong without a word: ranges, units, what is left out."""

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import clipwise
from clipwise.errors import ArgumentError, NonFiniteError, StateError
from clipwise.torch import per_example
from tests.torch.test_per_example import assert_gradients, clipped_sum, one_by_one

FLAT = clipwise.clip_by_global_norm(1.0)


def first(outputs):
    return outputs.squeeze(1)


def scaled_sums(outputs, scales):
    return (outputs * scales).sum((1, 2))


class Tied(nn.Module):
    """A table that is looked up, and multiplied with."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(50, 6, padding_idx=1)

    def forward(self, x):
        return F.linear(self.table(x), self.table.weight)


@pytest.mark.parametrize("name", ["linear", "conv", "embedding", "tied"])
def test_norms_and_sums_beyond_the_squares_of_float32(name):
    """From 1e-25 to 1e22, between examples and within one: float32 has squares from 1e-38 to 3e38 only."""
    torch.manual_seed(0)
    make, inputs = {
        "linear": (lambda: nn.Linear(64, 64, bias=False), torch.randn(5, 3, 64)),
        "conv": (lambda: nn.Conv1d(32, 16, 5, bias=False), torch.randn(5, 32, 7)),
        "embedding": (lambda: nn.Embedding(10, 8), torch.randint(10, (5, 3))),
        "tied": (Tied, torch.randint(50, (5, 3))),
    }[name]
    scales = torch.tensor([1.0, 1e20, 1.0, 1e-24, 1.0])[:, None, None]
    if (
        name == "linear"
    ):  # of this example, what one position takes from the gradient the other adds to the input
        scales = scales.repeat(1, 3, 1)
        scales[3, 0] = 0.0  # a position that counts for nothing
        scales[4] = torch.tensor([[1e-22], [1.0], [1e22]])
        inputs[4] *= scales[4].flip(0)
    model = make()
    exact = copy.deepcopy(model).double()
    rows = one_by_one(exact, scaled_sums, inputs.double() if inputs.is_floating_point() else inputs, scales)
    norms = [np.linalg.norm(np.concatenate(row)) for row in rows]
    step = per_example(model, FLAT, "sum", route="ghost")
    step.backward(scaled_sums, inputs, scales)
    np.testing.assert_allclose(step.report.norms, norms, rtol=1e-5)
    for p, total in zip(model.parameters(), clipped_sum(rows, "global", 1.0), strict=True):
        np.testing.assert_allclose(p.grad.ravel(), total, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("per", ["global", "tensor"])
def test_the_report_has_the_norm_of_the_clip(per):
    """The root mean square, where that is what the threshold is compared with."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 1, bias=False)).double()
    inputs = torch.randn(5, 4, dtype=torch.float64)
    rows = one_by_one(model, lambda out, _: first(out), inputs, inputs)
    whole = [np.sqrt(np.mean(np.square(np.concatenate(row)))) for row in rows]
    parts = [[np.sqrt(np.mean(np.square(one))) for one in row] for row in rows]
    step = per_example(model, clipwise.Clip(per=per, norm="rms", threshold=0.05), "sum")
    step.backward(first, inputs)
    np.testing.assert_allclose(step.report.norms, whole, rtol=1e-12)
    np.testing.assert_allclose(step.report.tensor_norms, parts, rtol=1e-12)
    if per == "global":
        np.testing.assert_allclose(step.report.norms_after, np.minimum(whole, 0.05), rtol=1e-12)


class Shapes(nn.Module):
    """Many kinds of use: a learned first state, a convolution, a norm, unknown functions, a product."""

    def __init__(self):
        super().__init__()
        self.into = nn.Linear(4, 6)
        self.start = nn.Parameter(torch.randn(1, 1, 6))
        self.words = nn.GRU(6, 6, batch_first=True)
        self.norm = nn.LayerNorm(6)
        self.filter = nn.Conv1d(6, 6, 3, padding=1)
        self.scale = nn.Parameter(torch.randn(6))
        self.a, self.b = nn.Parameter(torch.randn(6, 2)), nn.Parameter(torch.randn(2, 6))
        self.out = nn.Linear(6, 1)

    def forward(self, x, places):
        h = F.dropout(self.into(x), 0.5, self.training)
        h = self.words(h, self.start.expand(1, len(x), 6).contiguous())[0]
        h = self.filter(self.norm(h).mT).mT * self.scale
        h = F.linear(h, self.a @ self.b)
        return self.out(h.mean(1)) / places.sum(1, keepdim=True)


@pytest.mark.filterwarnings("ignore:per_example. .* passes through")
def test_examples_that_are_dropped_leave_the_sum_of_those_that_are_reported():
    """The sum of one good example has the norm that is reported, whatever dropout drew."""
    torch.manual_seed(0)
    model = Shapes()
    x, places = torch.randn(4, 3, 4), torch.ones(4, 2)
    x[0], x[3, 1], places[1] = math.nan, math.inf, 0.0  # NaN comes in, in the middle, and back
    step = per_example(model, clipwise.clip_by_global_norm(1e9), "sum", nonfinite="drop", route="ghost")
    step.backward(first, (x, places))
    assert step.report.norms.isfinite().tolist() == [False, False, True, False]
    found = torch.cat([p.grad.ravel() for p in model.parameters()]).norm()
    assert float(found) == pytest.approx(float(step.report.norms[2]), rel=1e-5)
    x[:] = math.nan
    model.zero_grad()
    step.backward(first, (x, places))
    assert not any(p.grad.any() for p in model.parameters())


@pytest.mark.parametrize("route", ["ghost", "explicit"])
def test_a_scaler_sees_the_overflow_of_examples_that_are_dropped(route):
    """A bad example is left out; a scale that is too large is found, and the step skipped."""
    model = nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127, growth_interval=1)
    step = per_example(model, FLAT, nonfinite="drop", route=route)
    inputs, before = torch.ones(3, 4), model.weight.clone()

    def weighted(outputs, weights):
        return first(outputs) * weights

    step.backward(weighted, inputs, torch.tensor([1.0, 8.0, 1.0]), scaler=scaler)
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == 2.0**126
    assert torch.equal(model.weight, before)
    optimizer.zero_grad()
    inputs[1] = math.nan
    step.backward(first, inputs, scaler=scaler)
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == 2.0**127
    assert not torch.equal(model.weight, before)


@pytest.mark.parametrize("loss", ["mean", "sum"])
def test_one_number_as_the_gradient_of_every_entry(loss):
    class Summed(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.weight = nn.Linear(4, 1), nn.Parameter(torch.randn(3, 4))

        def forward(self, x):
            return self.layer(x) * self.weight.sum()

    torch.manual_seed(0)
    model, inputs = Summed().double(), torch.randn(6, 4, dtype=torch.float64)
    wanted = clipped_sum(one_by_one(model, lambda out, _: first(out), inputs, inputs), "global", 1.0)
    step = per_example(model, FLAT, loss)
    for calls in (1, 2):
        step.backward(first, inputs)
        assert_gradients(model, wanted, scale=calls / (6 if loss == "mean" else 1))


def test_a_step_of_several_calls_that_ends_early():
    """By an error, a checkpoint or other parameters: the next step knows nothing of it."""
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1))
    step = per_example(model, FLAT, batch_size=4, nonfinite="error")
    good, state = torch.randn(2, 3), step.state_dict()

    def fails():
        with pytest.raises(NonFiniteError):
            step.backward(first, torch.full((2, 3), math.nan))

    def loads():
        step.load_state_dict(state)

    def freezes():
        model[0].requires_grad_(False)
        before = model[1].weight.grad.clone()
        with pytest.raises(StateError, match="within a step"):
            step.explain(first, good)
        with pytest.raises(StateError, match="within a step"):
            step.backward(first, good)
        assert torch.equal(model[1].weight.grad, before)

    for ends in (fails, loads, freezes):
        step.backward(first, good, more=True, keys=["a", "b"])
        ends()
        step.state_dict()
        step.backward(first, good)
        assert len(step.report) == 2
    step.backward(first, good, more=True)
    with pytest.raises(ArgumentError):  # of arguments, before anything began: the step goes on
        step.backward(first, good, keys=["a"])
    step.backward(first, good)
    assert len(step.report) == 4


def test_parameters_of_other_shapes_and_those_that_no_clip_bounds():
    """The root mean square is that of the new shape; noise is refused where it would be infinite."""
    model = nn.Linear(4, 1, bias=False)
    step = per_example(model, clipwise.Clip(per="global", norm="rms", threshold=0.1), "sum")
    step.backward(first, torch.ones(2, 4))
    model.weight = nn.Parameter(torch.randn(1, 100))
    step.backward(first, torch.ones(2, 100))
    assert step.report.norms.tolist() == pytest.approx([1.0, 1.0])
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1).requires_grad_(False))
    step = per_example(model, clipwise.by_name({"0.*": FLAT}), "sum", noise_multiplier=1.0)
    step.backward(first, torch.ones(2, 3))
    model[1].requires_grad_(True)
    for _ in range(2):
        with pytest.raises(ArgumentError, match="without a bound"):
            step.backward(first, torch.ones(2, 3))
    assert model[1].weight.grad is None


def test_a_checkpoint_goes_on_with_the_noise():
    def make(generator):
        torch.manual_seed(0)
        model = nn.Linear(3, 1)
        return model, per_example(model, FLAT, "sum", noise_multiplier=1.0, generator=generator)

    model, step = make(torch.Generator().manual_seed(1))
    step.backward(first, torch.zeros(1, 3))
    state = step.state_dict()
    other, resumed = make(torch.Generator())
    resumed.load_state_dict(state)
    model.zero_grad()
    step.backward(first, torch.zeros(1, 3))
    resumed.backward(first, torch.zeros(1, 3))
    assert torch.equal(model.weight.grad, other.weight.grad)
    drawn = resumed.generator.get_state()
    for bad in ({**state, "generator": torch.zeros(3)}, {**state, "steps": "one"}):
        with pytest.raises(StateError):
            resumed.load_state_dict(bad)
        assert torch.equal(resumed.generator.get_state(), drawn)
    with pytest.raises(StateError, match="generator="):
        make(None)[1].load_state_dict(state)


def test_an_index_that_was_written_into_is_no_index():
    """Between the forward pass and the norms."""

    class Shifted(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(9, 4)

        def forward(self, x):
            index = x.clone()
            found = self.table(index)
            if self.training:
                index += 1
            return found.flatten(1)

    step = per_example(Shifted(), FLAT, route="ghost")
    with pytest.raises(RuntimeError, match="in-place"):
        step.backward(lambda outputs: outputs.sum(1), torch.tensor([[1, 1], [2, 3]]))
