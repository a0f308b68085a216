"""Which route computes the gradients of single examples: a wrong one is found, also after the first call."""

import functools
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import clipwise
from clipwise.errors import ArgumentError
from clipwise.torch import per_example

from .test_per_example import assert_gradients, clipped_sum, draw, trainable


class Counting(nn.Linear):
    """A layer that counts its calls."""

    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x):
        self.calls += 1
        return super().forward(x)


class Distances(nn.Module):
    """A bias by the distance of two positions, as in T5: a square table without examples."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(4, 1)

    def forward(self, x):
        places = torch.arange(x.shape[1])
        return x @ self.table((places[None] - places[:, None]).abs()).squeeze(2)


class Copied(nn.Module):
    """A parameter copied along the sequence, and another one along the examples."""

    def __init__(self, copy):
        super().__init__()
        self.copy, self.place = copy, nn.Parameter(torch.randn(1, 4))
        self.first, self.layer = nn.Parameter(torch.randn(1, 1, 4)), nn.Linear(4, 4)

    def forward(self, x):
        h = self.layer(x + self.copy(self.place, x.shape[1])).tanh()
        return torch.cat([self.first.expand(len(x), -1, -1) * h[:, :1], h], 1)


class Places(nn.Module):
    """Indices of positions with a copy for each example, as in many models of words."""

    def __init__(self):
        super().__init__()
        self.words, self.places, self.out = nn.Embedding(9, 3), nn.Embedding(4, 3), nn.Linear(3, 2)

    def forward(self, x):
        return self.out((self.words(x) + self.places(torch.arange(4)[None].expand(x.shape))).tanh())


class Rows(nn.Module):
    """Time first, and all positions in the rows of one matrix."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x):
        h = self.layer(x.transpose(0, 1).reshape(-1, 4)).tanh()
        return h.view(x.shape[1], len(x), 3).transpose(0, 1)


class Named(nn.Module):
    """Lists of parameters, and parameters, that are given by name."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Parameter(torch.randn(2)), nn.Parameter(torch.randn(2))
        self.c, self.matrix = nn.Parameter(torch.randn(1, 2)), nn.Parameter(torch.randn(6, 3))

    def forward(self, x):
        x = torch.cat(tensors=[x * torch.cat(tensors=[self.a, self.b]), self.c.expand(len(x), -1)], dim=1)
        return torch.mm(x, mat2=self.matrix)


class Scaled(nn.Module):
    """A layer times a parameter without an axis."""

    def __init__(self):
        super().__init__()
        self.layer, self.scale = nn.Linear(4, 3), nn.Parameter(torch.tensor(0.7))

    def forward(self, x):
        return self.layer(x) * self.scale.exp() + self.scale


def squares(outputs):
    return outputs.flatten(1).square().sum(1)


def gradients(model, loss_fn, inputs):
    """One by one, without the other examples."""
    rows = []
    for own in inputs.split(1):
        found = torch.autograd.grad(loss_fn(model(own)).sum(), trainable(model), allow_unused=True)
        pairs = zip(found, trainable(model), strict=True)
        rows.append([np.zeros(p.numel()) if g is None else g.numpy().ravel() for g, p in pairs])
    return rows


def assert_right(step, inputs, loss_fn=squares):
    """Norms and gradients are those of the examples one by one."""
    rows = gradients(step.model, loss_fn, inputs)
    step.model.zero_grad()
    step.backward(loss_fn, inputs)
    norms = [np.linalg.norm(np.concatenate(row)) for row in rows]
    np.testing.assert_allclose(step.report.norms, norms, rtol=1e-9)
    assert_gradients(step.model, clipped_sum(rows, "global", 0.3))


def made(model, route="auto"):
    return per_example(model.double(), clipwise.clip_by_global_norm(0.3), "sum", route=route)


WORDS = torch.tensor([[1, 2, 3, 4], [5, 1, 2, 8], [3, 3, 1, 7], [2, 6, 8, 5]])
LONG_AS_MANY = {
    "distances": (Distances, draw(4, 4)),
    "expand": (lambda: Copied(lambda w, count: w.expand(count, 4)), draw(4, 4, 4)),
    "repeat": (lambda: Copied(lambda w, count: w.repeat(count, 1)), draw(4, 4, 4)),
    "positions": (Places, WORDS),
}


@pytest.mark.parametrize("name", LONG_AS_MANY)
def test_a_sequence_as_long_as_the_batch_is_large(name):
    torch.manual_seed(0)
    make, inputs = LONG_AS_MANY[name]
    step = made(make(), "ghost")  # which raises where it cannot follow
    for first in (inputs, inputs[:3], inputs[:1], inputs):
        assert_right(step, first)
    step = made(make(), "ghost")
    assert_right(step, inputs[:1])  # shows nothing
    assert_right(step, inputs)


def test_what_the_first_two_examples_did_not_show_is_checked_when_it_comes():
    torch.manual_seed(0)
    step = made(Rows())
    assert_right(step, draw(4, 1, 4))
    assert step.route == "ghost"
    with pytest.warns(UserWarning, match=r"ghost route gives other gradients.*torch\.func"):
        assert_right(step, draw(4, 3, 4))
    assert step.route == "explicit"
    with pytest.raises(ArgumentError, match="other gradients of 'layer"):
        made(Rows(), "ghost").backward(squares, draw(4, 2, 4))


@pytest.mark.parametrize("route", ["ghost", "explicit"])
@pytest.mark.parametrize("model", [Scaled, Named])
def test_parameters_without_an_axis_and_by_name(model, route):
    torch.manual_seed(0)
    step = made(model(), route)
    assert_right(step, draw(4, 4))
    assert step.route == route


def test_weights_deep_within_an_argument_take_another_route():
    class Deep(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Parameter(draw(2)), nn.Parameter(draw(2))

        def forward(self, x):
            return x * _joined([[self.a], [self.b]])

    with pytest.warns(UserWarning, match="'a' is deep within an argument of _joined"):
        assert_right(made(Deep()), draw(4, 4))


def _joined(parts):
    flat = [one for part in parts for one in part]
    if torch.overrides.has_torch_function(flat) or torch._C._is_torch_function_mode_enabled():
        return torch.overrides.handle_torch_function(_joined, flat, parts)
    return torch.cat(flat)


def test_the_first_call_does_not_ask_a_module_for_more_than_another_mode():
    """A layer that adds its low-rank part to its weight when it is evaluated, and buffers."""

    class Merging(Counting):
        def __init__(self):
            super().__init__(4, 3)
            self.weight.requires_grad_(False)
            self.a, self.b, self.merged = nn.Parameter(draw(2, 4)), nn.Parameter(draw(3, 2)), False

        def train(self, mode=True):
            self.merged = not mode
            return super().train(mode)

        def forward(self, x):
            found = super().forward(x)
            return found if self.merged else found + x @ self.a.mT @ self.b.mT

    torch.manual_seed(0)
    model, inputs = Merging().train(), draw(4, 4)
    step = made(model)
    rows = gradients(model, squares, inputs)
    model.calls.zero_()
    buffer = model.calls
    step.explain(squares, inputs)
    assert float(model.calls) == 0
    step.backward(squares, inputs)
    assert (float(model.calls), step.route) == (1, "ghost")
    assert model.calls is buffer
    assert model.training
    assert not model.merged
    assert_gradients(model, clipped_sum(rows, "global", 0.3))


@pytest.mark.parametrize("broken", [[0], [0, 1], [0, 1, 2, 3], [0, 2, 3]])
def test_examples_that_are_not_finite_do_not_end_the_check(broken):
    """Time first, with a length that the number of examples divides."""
    torch.manual_seed(0)
    model = Rows()
    step, inputs = made(model), draw(4, 4, 4)
    bad = inputs.clone()
    bad[broken] = float("nan")
    whole = [place for place in range(4) if place not in broken]
    with warnings.catch_warnings(action="ignore"):
        step.backward(squares, bad)
        norms = [np.linalg.norm(np.concatenate(row)) for row in gradients(model, squares, inputs)]
        np.testing.assert_allclose(step.report.norms[whole], np.array(norms)[whole], rtol=1e-9)
        assert_right(step, inputs)
    assert step.route == "explicit"


def test_an_example_with_nan_in_one_parameter_ends_no_route():
    class Root(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.shift = nn.Linear(4, 3), nn.Parameter(torch.zeros(1))

        def forward(self, x):
            return self.layer(x) + (self.shift * x[:, :1]).square().sqrt()  # whose gradient is 0 / 0

    torch.manual_seed(0)
    model = Root()
    step = made(model, "ghost")
    step.backward(squares, draw(4, 4))
    assert step.report.tensor_norms[:, 0].isnan().all()


def test_a_route_that_takes_over_in_training_is_checked_too():
    class Dropped(nn.Linear):
        def forward(self, x):
            return F.linear(x, F.dropout(self.weight, 1e-12, self.training), self.bias)

    def loss_fn(outputs):  # torch.func does not see these weights
        return squares(outputs) + model.weight.square().sum()

    torch.manual_seed(0)
    model = Dropped(4, 3)
    step = made(model)
    with pytest.warns(UserWarning, match="a loop over single examples") as caught:
        assert_right(step, draw(4, 4), loss_fn)
    said = [str(one.message) for one in caught]
    assert any("random numbers" in one for one in said)
    assert any("torch.func gives other gradients of 'weight'" in one for one in said)
    assert step.route == "loop"
    with warnings.catch_warnings(action="error"):
        assert_right(step, draw(4, 4), loss_fn)
        assert_right(step, draw(1, 4), loss_fn)


@pytest.mark.parametrize("write", ["token", "product", "sum"])
def test_what_training_alone_writes_a_weight_into(write):
    """The embedding of a masked place, as in wav2vec 2.0, and tensors made of weights alone."""

    class Writing(nn.Linear):
        def __init__(self):
            super().__init__(4, 4)
            self.token = nn.Parameter(draw(4))

        def forward(self, x):
            weight, h = self.weight.clone(), super().forward(x).tanh().clone()
            if self.training and write == "token":
                h[:, 1] = self.token
            elif self.training and write == "product":
                weight.mul_(3)
            elif self.training:
                weight += self.token
            return F.linear(h, weight)

    torch.manual_seed(0)
    step = made(Writing())
    with pytest.warns(UserWarning, match=r"is used in the in-place operation.*torch\.func"):
        assert_right(step, draw(4, 3, 4))
    assert step.route == "explicit"


def test_a_route_that_training_alone_shows_to_be_impossible_is_left():
    """Statistics that are written in training, which torch.func does not allow."""
    torch.manual_seed(0)
    norm = nn.InstanceNorm1d(3, affine=True, track_running_stats=True)
    step = made(nn.Sequential(nn.Conv1d(2, 3, 2), norm))
    with pytest.warns(UserWarning, match=r"torch\.func does not support.*a loop over single examples"):
        assert_right(step, draw(4, 2, 5), lambda outputs: outputs.pow(3).flatten(1).sum(1))
    assert step.route == "loop"
    with pytest.raises(ValueError, match="loss of mine"):
        step.backward(functools.partial(_raising, ValueError("loss of mine")), draw(4, 2, 5))


def _raising(error, outputs):
    raise error


def test_weights_in_half_precision_with_the_loss_in_float32():
    def loss_fn(outputs, targets):
        return F.cross_entropy(outputs.float().mean(1), targets, reduction="none")

    for seed in range(3):
        torch.manual_seed(seed)
        layers = nn.Linear(16, 32), nn.LayerNorm(32), nn.Tanh(), nn.Linear(32, 10)
        step = per_example(nn.Sequential(*layers).bfloat16(), clipwise.clip_by_global_norm(1.0))
        with warnings.catch_warnings(action="error"):
            step.backward(loss_fn, torch.randn(2, 12, 16).bfloat16(), torch.randint(10, (2,)))
        assert step.route == "ghost"


@pytest.mark.parametrize("use", ["embedding", "other"])
def test_what_is_written_into_after_its_use_is_not_taken_for_what_it_was(use):
    """As a plain backward pass raises; in training only, where no check comes by."""

    class Written(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.scale = nn.Embedding(9, 3), nn.Parameter(torch.ones(3))

        def forward(self, x):
            x = x.clone()
            h = self.table(x)
            h = h.detach() if use == "other" else h
            found = h * self.scale
            if self.training:
                x.fill_(0) if use == "embedding" else h.fill_(0)
            return found

    torch.manual_seed(0)
    step = made(Written())
    with (
        warnings.catch_warnings(action="ignore"),
        pytest.raises(RuntimeError, match=r"in-?place operation"),
    ):
        step.backward(squares, WORDS)
    assert all(p.grad is None for p in step.model.parameters())
