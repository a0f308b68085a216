"""What the drop-ins say, raise and warn is torch's to the letter: programs match it."""

import inspect
import math
import warnings

import pytest
import torch
from torch import nn
from torch.nn import utils

import clipwise.torch as ours
from clipwise.errors import ParameterError, ThresholdError

NAMES = ["clip_grad_norm_", "clip_grad_value_", "clip_grads_with_norm_", "get_total_norm"]


def weights(*gradient: float) -> list[nn.Parameter]:
    weight = nn.Parameter(torch.zeros(len(gradient)))
    weight.grad = torch.tensor(gradient)
    return [weight]


def bad():
    return weights(math.nan, 1.0)


def good():
    return weights(3.0, 4.0)


NORM = torch.tensor(5.0)
STRICT = {"error_if_nonfinite": True}
CASES = {
    "NaN": ("clip_grad_norm_", lambda: (bad(), 1.0), STRICT),
    "NaN, the largest": ("clip_grad_norm_", lambda: (bad(), 1.0, "inf"), STRICT),
    "NaN, order 1": ("clip_grad_norm_", lambda: (bad(), 1.0, 1), STRICT),
    "Inf": ("get_total_norm", lambda: ([torch.tensor([math.inf])],), STRICT),
    "Inf, order -1": ("get_total_norm", lambda: ([torch.tensor([math.nan])], -1), STRICT),
    "no order": ("clip_grad_norm_", lambda: (good(), 1.0, "abc"), {}),
    "no order of nothing": ("clip_grad_norm_", lambda: ([], 1.0, "abc"), {}),
    "no order of no tensors": ("get_total_norm", lambda: ([], "abc"), {}),
    "order None": ("clip_grad_norm_", lambda: (good(), 1.0, None), {}),
    "threshold None": ("clip_grad_norm_", lambda: (good(), None), {}),
    "threshold in a list": ("clip_grad_norm_", lambda: (good(), [1.0]), {}),
    "value None": ("clip_grad_value_", lambda: (good(), None), {}),
    "threshold None, norm": ("clip_grads_with_norm_", lambda: (good(), None, NORM), {}),
    "norm None": ("clip_grads_with_norm_", lambda: (good(), 1.0, None), {}),
    "norm NaN": ("clip_grads_with_norm_", lambda: (good(), 1.0, torch.tensor(math.nan)), {}),
    "parameters None": ("clip_grad_norm_", lambda: (None, 1.0), {}),
    "parameters None, value": ("clip_grad_value_", lambda: (None, 1.0), {}),
    "parameters None, norm": ("clip_grads_with_norm_", lambda: (None, 1.0, NORM), {}),
    "a number": ("clip_grad_norm_", lambda: ([3], 1.0), {}),
    "a number, last": ("clip_grad_norm_", lambda: ([*good(), 3], 1.0), {}),
    "a number, value": ("clip_grad_value_", lambda: ([3], 1.0), {}),
    "a number, norm": ("clip_grads_with_norm_", lambda: ([3], 1.0, NORM), {}),
    "None": ("clip_grad_norm_", lambda: ([None], 1.0), {}),
    "pairs": ("clip_grad_norm_", lambda: (nn.Linear(1, 1).named_parameters(), 1.0), {}),
    "a module": ("clip_grad_norm_", lambda: (nn.Linear(1, 1), 1.0), {}),
    "no tensors": ("get_total_norm", lambda: (None,), {}),
    "no tensor": ("get_total_norm", lambda: ([None],), {}),
    "whole numbers": ("get_total_norm", lambda: ([torch.ones(2, dtype=torch.int64)],), {}),
    "an empty generator": ("clip_grad_norm_", lambda: ((p for p in []), 1.0), {}),
    "an empty generator of tensors": ("get_total_norm", lambda: ((p for p in []),), {}),
    "no threshold": ("clip_grad_norm_", lambda: (good(),), {}),
    "no value": ("clip_grad_value_", lambda: (good(),), {}),
    "too much": ("clip_grad_norm_", lambda: (good(), 1.0), {"foo": 3}),
}


def said(function, args, options):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            result = repr(function(*args, **options))
        except Exception as error:
            result = type(error), str(error)
    return result, [(w.category, str(w.message), w.filename) for w in caught]


@pytest.mark.parametrize("case", CASES)
def test_as_torch_says_it(case):
    name, args, options = CASES[case]
    assert said(getattr(ours, name), args(), options) == said(getattr(utils, name), args(), options)


@pytest.mark.parametrize("name", NAMES)
def test_called_as_torchs(name):
    theirs, mine = (inspect.signature(getattr(of, name)).parameters for of in (utils, ours))
    assert [(p.name, p.default, p.kind) for p in mine.values()] == [
        (p.name, p.default, p.kind) for p in theirs.values()
    ]


@pytest.mark.parametrize("threshold", ["x", torch.ones(2)])
def test_a_threshold_that_is_none_is_named_in_torchs_type(threshold):
    for function in (ours.clip_grad_norm_, ours.clip_grad_value_):
        with pytest.raises(ThresholdError, match="must be a"):
            function(good(), threshold)
    with pytest.raises(ValueError):
        utils.clip_grad_norm_(good(), threshold)


def test_a_norm_of_several_numbers_is_refused_before_anything_is_touched():
    for functions in (ours, utils):
        some = good()
        with pytest.raises(RuntimeError):
            functions.clip_grads_with_norm_(some, 1.0, torch.ones(2))
        assert some[0].grad.tolist() == [3.0, 4.0]


NO_PARAMETERS = {
    "gradients": lambda: [p.grad for p in good()],
    "with a graph": lambda: torch.autograd.grad(
        (x := torch.ones(2, requires_grad=True)).square().sum(), x, create_graph=True
    ),
}


class TestGradientsInThePlaceOfParameters:
    """torch does nothing, and does not say so."""

    @pytest.mark.parametrize("kind", NO_PARAMETERS)
    @pytest.mark.filterwarnings("ignore:The .grad attribute")
    def test_are_refused(self, kind):
        calls = {
            "clip_grads_with_norm_": lambda some: ours.clip_grads_with_norm_(some, 1.0, NORM),
            "clip_grad_norm_": lambda some: ours.clip_grad_norm_(some, 1.0),
            "clip_grad_value_": lambda some: ours.clip_grad_value_(some[0], 1.0),
            "clip_": lambda some: ours.Clipper(some, "clip_by_global_norm(1.0)").clip_(),
        }
        for name, call in calls.items():
            with pytest.raises(ParameterError, match=rf"{name} takes parameters.*not the gradients"):
                call(NO_PARAMETERS[kind]())

    def test_parameters_without_a_gradient_are_not(self):
        kept = torch.ones(2, requires_grad=True) * 2
        kept.retain_grad()
        frozen = nn.Parameter(torch.zeros(2), requires_grad=False)
        for some in ([frozen], [torch.zeros(2, requires_grad=True)], [kept], [torch.zeros(2), frozen], []):
            assert ours.clip_grads_with_norm_(some, 1.0, NORM) is None
            assert ours.clip_grad_norm_(some, 1.0).item() == 0.0
            assert ours.clip_(some, "clip_by_global_norm(1.0)").norm.item() == 0.0
