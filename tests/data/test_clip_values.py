"""The module that clips inside a model: values, gradients, NaN, saving, mistakes. The layer: tests/keras."""

import copy
import math
import warnings

import numpy as np
import pytest
import torch

from clipwise.data import Clipper
from clipwise.errors import ArgumentError
from clipwise.torch.clip_values import ClipValues

ROWS = np.array([[-3.0, 0.5, math.nan], [0.25, 9.0, -math.inf], [1.0, 2.0, math.inf]], dtype=np.float32)
INSIDE = np.array([[-1.0, 0.5, math.nan], [0.25, 2.0, -4.0], [1.0, 2.0, math.inf]], dtype=np.float32)
LOW, HIGH = [-1.0, None, -4.0], [1.0, 2.0, math.inf]


def test_torch_clips_each_feature_and_keeps_nan():
    module = ClipValues(LOW, HIGH)
    np.testing.assert_array_equal(module(torch.tensor(ROWS)).numpy(), INSIDE)
    for dtype in (torch.float64, torch.bfloat16, torch.float16):
        assert module(torch.tensor(ROWS, dtype=dtype)).dtype == dtype
    assert ClipValues(high=2)(torch.tensor(5.0)) == 2.0


def test_torch_gradients_are_those_of_a_clamp():
    x = torch.tensor([[-2.0, -1.0, 0.5], [0.0, 3.0, 3.0]], requires_grad=True)
    ClipValues([-1, -1, -1], [1, 2, 3])(x).sum().backward()
    assert x.grad.tolist() == [[0.0, 1.0, 1.0], [1.0, 0.0, 1.0]]


def test_torch_keeps_the_type_and_the_values_of_tensors():
    low, high = torch.tensor([0.1, 0.2], dtype=torch.float64), torch.tensor([0.5, 0.5], dtype=torch.bfloat16)
    module = ClipValues(low, high)
    assert module.low.dtype == module.high.dtype == torch.float64
    assert torch.equal(module.low, low)
    assert ClipValues(high=high).high.dtype == torch.float32
    assert ClipValues(torch.tensor(0.3), 0.3).low == ClipValues(torch.tensor(0.3), 0.3).high
    assert ClipValues(high=1e300).high == math.inf


def test_torch_saves_moves_and_compiles_with_the_model():
    module = torch.nn.Sequential(ClipValues(LOW, HIGH), torch.nn.Linear(3, 1))
    other = torch.nn.Sequential(ClipValues([0, 0, 0], [0, 0, 0]), torch.nn.Linear(3, 1))
    other.load_state_dict(module.state_dict())
    assert other[0].low.tolist() == [-1.0, -math.inf, -4.0]
    assert module.double()[0].low.dtype == torch.float64
    assert not list(ClipValues(0, 1).parameters())
    exported = torch.export.export(ClipValues(LOW, HIGH), (torch.tensor(ROWS),)).module()
    np.testing.assert_array_equal(exported(torch.tensor(ROWS)).numpy(), INSIDE)
    compiled = torch.compile(ClipValues(LOW, HIGH), fullgraph=True, backend="aot_eager")
    np.testing.assert_array_equal(compiled(torch.tensor(ROWS)).numpy(), INSIDE)


def test_torch_takes_the_bounds_of_a_transformer():
    x = np.random.default_rng(0).normal(size=(200, 2))
    clipper = Clipper("iqr", side="high").fit(x)
    out = ClipValues(clipper.lower_, clipper.upper_)(torch.tensor(x * 9))
    np.testing.assert_allclose(out.numpy(), clipper.transform(x * 9), rtol=1e-6)


MISTAKES = [
    ((2, 1), "bounds are crossed, low=2.0 is above high=1.0"),
    (([0, 2], [1, 1]), "bounds of feature 1 are crossed"),
    (([0, 2], [1, 1, 1]), "low has 2 bounds and high 3"),
    ((math.nan,), "low must be a number or one per feature, none of them NaN"),
    (("a",), "low must be a number or one per feature, got 'a'|low must be a number"),
    (([[0.0]],), "low must be a number or one per feature"),
    (([],), "low must be a number or one per feature"),
]


@pytest.mark.parametrize(("arguments", "says"), MISTAKES)
def test_torch_names_a_mistake(arguments, says):
    with pytest.raises(ArgumentError, match=says):
        ClipValues(*arguments)


def test_torch_warns_of_a_feature_that_is_wiped_out():
    sparse = np.zeros((100, 2))
    sparse[:10, 1], sparse[:, 0] = np.arange(10), np.arange(100)
    with pytest.warns(UserWarning, match="column 'x1': method 'iqr' sets all values to 0.0"):
        clipper = Clipper("iqr").fit(sparse)
    says = r"feature 1: its bounds, 0\.0 and 0\.0, set all values to 0\.0; give others"
    with pytest.warns(UserWarning, match=says) as caught:
        module = ClipValues(clipper.lower_, clipper.upper_)
    assert [warning.filename for warning in caught] == [__file__]
    with pytest.warns(UserWarning, match=r"^the bounds, 3\.0 and 3\.0, set all values to 3\.0"):
        ClipValues(3, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        ClipValues(LOW, HIGH)
        copy.deepcopy(module)(torch.tensor(sparse))


def test_torch_names_an_input_that_does_not_fit():
    with pytest.raises(ArgumentError, match=r"bounds for 3 features do not fit an input of shape \(2, 4\)"):
        ClipValues(LOW, HIGH)(torch.zeros(2, 4))
    with pytest.raises(ArgumentError, match=r"floating-point values, got torch.int64"):
        ClipValues(0, 1)(torch.zeros(2, dtype=torch.int64))
