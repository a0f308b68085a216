"""Whose array a value is, and what is asked of it by any part of the house."""

import copy
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorflow as tf
import torch

from clipwise.namespace import (
    framework_of,
    is_traced,
    make_namespace,
    namespace_of,
    on_host,
    stop_gradient,
)
from tests.functional.frameworks import ALL, DIFFERENTIABLE, named


class Marked(torch.Tensor):
    """A tensor of somebody's own class."""


MADE = {
    "numpy": [np.ones(2), np.float32(1.0), np.float64(1.0)],
    "torch": [torch.ones(2), torch.nn.Parameter(torch.ones(2)), torch.ones(2).as_subclass(Marked)],
    "jax": [jnp.ones(2)],
    "tensorflow": [tf.ones(2), tf.Variable([1.0])],
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in MADE.items() for value in values]
)
def test_of_each_framework(name, value):
    assert framework_of(value) == name
    xp = namespace_of(value)
    assert (xp.framework, xp.float_dtype) == (name, value.dtype)
    assert not is_traced(value)
    for again in (pickle.loads(pickle.dumps(xp)), copy.deepcopy(xp)):
        assert again.zeros((2,)).dtype == value.dtype
        assert again.framework == name
    assert framework_of(make_namespace(name, value.dtype).zeros(())) == name


@pytest.mark.parametrize("value", [None, "1", [1.0], 1j, object()])
def test_of_none(value):
    assert framework_of(value) is None
    assert not is_traced(value)
    assert stop_gradient(value) is value
    with pytest.raises(TypeError):
        namespace_of(value)


def test_numbers_are_of_numpy():
    assert framework_of(1.0) is None
    assert namespace_of(True).float_dtype == np.float64
    assert on_host(3) == 3


def test_what_is_traced():
    seen = []
    jax.jit(lambda x: seen.append((framework_of(x), is_traced(x))))(1.0)
    tf.function(lambda x: seen.append((framework_of(x), is_traced(x))))(tf.ones(2))
    assert seen == [("jax", True), ("tensorflow", True)]


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("shape", [(), (3,)])
@pytest.mark.parametrize("framework", DIFFERENTIABLE, ids=named)
def test_on_the_host(framework, dtype, shape):
    found = on_host(framework.array(np.full(shape, 1.5), dtype))
    assert isinstance(found, np.ndarray)
    assert found.shape == shape
    assert (found.astype(float) == 1.5).all()


@pytest.mark.parametrize("framework", DIFFERENTIABLE, ids=named)
def test_nothing_flows_through_a_constant(framework):
    (found,) = framework.gradients(lambda x: x * stop_gradient(x), framework.array([2.0, 3.0]))
    assert found.tolist() == [2, 3]


@pytest.mark.parametrize("framework", DIFFERENTIABLE, ids=named)
def test_slopes(framework):
    points = framework.array([2.0, 3.0])
    found = namespace_of(points).slopes(lambda x: x**3, points)
    assert framework.numpy(found).tolist() == [12, 27]

    def total(x):  # differentiated again
        return namespace_of(x).slopes(lambda y: y * y * framework.array([1.0, 2.0]), x) * x

    if framework.name != "torch":  # whose points are leaves
        assert framework.gradients(total, points)[0].tolist() == [8, 24]


@pytest.mark.parametrize("framework", ALL, ids=named)
def test_row_products_and_sigmoid(framework):
    a, b = np.arange(12.0).reshape(2, 2, 3), np.arange(24.0).reshape(2, 4, 3)
    xp = namespace_of(framework.array(a))
    found = framework.numpy(xp.row_products(framework.array(a), framework.array(b)))
    np.testing.assert_array_equal(found, np.einsum("hid,hjd->hij", a, b))
    x = np.array([-1000.0, -1.0, 0.0, 2.0, 1000.0])
    with np.errstate(over="raise"):
        found = framework.numpy(xp.sigmoid(framework.array(x)))
    with np.errstate(over="ignore"):
        np.testing.assert_allclose(found, 1 / (1 + np.exp(-x)), rtol=1e-6, atol=1e-38)
