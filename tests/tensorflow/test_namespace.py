"""The array namespace over TensorFlow, function by function against numpy."""

import pickle

import numpy as np
import pytest
import tensorflow as tf

from clipwise.functional.arithmetic import arithmetic_of
from clipwise.namespace import namespace_of

X = np.array([[3.0, -1.0, 2.5], [0.5, 4.0, -7.0]])


@pytest.fixture
def xp():
    return namespace_of(tf.constant(0.0, tf.float64))


@pytest.mark.parametrize("name", ["abs", "exp", "floor", "cos", "isfinite", "zeros_like", "ones_like"])
def test_functions_of_one_array(xp, name):
    np.testing.assert_allclose(getattr(xp, name)(tf.constant(X)).numpy(), getattr(np, name)(X), rtol=1e-15)


@pytest.mark.parametrize("name", ["log", "sqrt"])
def test_functions_of_positive_numbers(xp, name):
    found = getattr(xp, name)(tf.constant(np.abs(X))).numpy()
    np.testing.assert_allclose(found, getattr(np, name)(np.abs(X)), rtol=1e-15)


@pytest.mark.parametrize("axis", [None, 0, -1, (0, 1)])
@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize("name", ["sum", "mean", "max", "min", "any", "all"])
def test_reductions(xp, name, axis, keepdims):
    x = X > 0 if name in ("any", "all") else X
    found = getattr(xp, name)(tf.constant(x), axis=axis, keepdims=keepdims)
    np.testing.assert_allclose(found.numpy(), getattr(np, name)(x, axis=axis, keepdims=keepdims), rtol=1e-15)


def test_a_sum_keeps_its_dtype_or_takes_another(xp):
    counts = tf.constant([1, 2], tf.int32)
    assert xp.sum(counts).dtype == tf.int32
    assert xp.sum(counts, dtype=xp.float64).dtype == tf.float64


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (None, 1.0), (0.0, None), (None, None)])
def test_clip_takes_either_side(xp, low, high):
    expected = X if low is None and high is None else np.clip(X, low, high)
    np.testing.assert_array_equal(xp.clip(tf.constant(X), low, high).numpy(), expected)


def test_numbers_take_the_dtype_of_the_tensors_they_meet(xp):
    flags = tf.constant([True, False])
    assert xp.where(flags, tf.constant([1, 2], tf.int32), 7).numpy().tolist() == [1, 7]
    assert xp.where(flags, 1.0, tf.constant([1.5, 2.5], tf.float32)).dtype == tf.float32
    assert xp.where(flags, 0, 5).numpy().tolist() == [0, 5]
    assert xp.where(flags, xp.inf, tf.constant(0.0, tf.float64)).numpy().tolist() == [np.inf, 0.0]
    assert xp.maximum(0.5, tf.constant([0.0, 1.0])).numpy().tolist() == [0.5, 1.0]
    both = xp.minimum(tf.constant([1, 5], tf.int32), tf.constant([2.5, 2.5], tf.float64))
    assert both.dtype == tf.float64
    assert both.numpy().tolist() == [1.0, 2.5]


def test_nan_goes_through_minimum_and_maximum(xp):
    nan = tf.constant(np.nan, tf.float64)
    assert np.isnan([xp.maximum(nan, 1.0), xp.minimum(1.0, nan), xp.clip(nan, 0.0, 1.0)]).all()


def test_making_arrays(xp):
    assert xp.zeros((2, 3)).dtype == tf.float64
    assert xp.zeros((), dtype=xp.int32).dtype == tf.int32
    assert xp.full((2,), 1.5).numpy().tolist() == [1.5, 1.5]
    assert xp.full((2,), tf.constant(2)).numpy().tolist() == [2.0, 2.0]
    assert xp.arange(3).numpy().tolist() == [0, 1, 2]
    assert xp.arange(3).dtype == tf.int32
    assert xp.asarray([1.0, 2.0]).dtype == tf.float64
    assert xp.asarray(2).dtype == tf.float64
    assert xp.asarray(tf.Variable([1.0])).dtype == tf.float32
    assert xp.asarray(np.float32(2.0), dtype=xp.float64).dtype == tf.float64


def test_joining_taking_and_sorting(xp):
    x = tf.constant(X)
    np.testing.assert_array_equal(xp.concat([x, x], axis=-1).numpy(), np.concatenate([X, X], -1))
    np.testing.assert_array_equal(xp.stack([x, x]).numpy(), np.stack([X, X]))
    np.testing.assert_array_equal(xp.reshape(x, (-1,)).numpy(), X.ravel())
    np.testing.assert_array_equal(xp.sort(x, axis=-1).numpy(), np.sort(X, -1))
    np.testing.assert_array_equal(xp.take(x, tf.constant([2, 0]), axis=1).numpy(), X[:, [2, 0]])
    places = np.array([[0, 2], [1, 1]])
    found = xp.take_along_axis(x, tf.constant(places), axis=-1)
    np.testing.assert_array_equal(found.numpy(), np.take_along_axis(X, places, -1))
    assert xp.take_along_axis(tf.constant([1.0, 2.0]), tf.constant([1]), axis=-1).numpy().tolist() == [2.0]
    places = np.array([[1, 0, 1]])
    for axis in (0, -2):
        found = xp.take_along_axis(x, tf.constant(places), axis=axis)
        np.testing.assert_array_equal(found.numpy(), np.take_along_axis(X, places, axis))


def test_complex_numbers(xp):
    z = tf.constant([3.0 + 4.0j, complex(np.inf, 0.0)], tf.complex64)
    assert xp.abs(z).numpy()[0] == 5.0
    assert xp.isfinite(z).numpy().tolist() == [True, False]
    assert xp.real(z).numpy()[0] == 3.0
    assert xp.imag(z).numpy()[0] == 4.0


def test_dtypes(xp):
    assert xp.isdtype(tf.complex64, "complex floating")
    assert not xp.isdtype(tf.float32, "complex floating")
    assert xp.isdtype(tf.bfloat16, ("integral", "real floating"))
    assert xp.isdtype(tf.int32, xp.int32)
    assert float(xp.finfo(tf.bfloat16).max) == pytest.approx(3.39e38, rel=1e-3)
    assert float(xp.finfo(tf.float64).smallest_normal) == np.finfo(np.float64).smallest_normal


def test_a_variable_has_the_namespace_and_it_can_be_pickled():
    xp = namespace_of(tf.Variable([1.0]))
    assert xp.float_dtype == tf.float32
    again = pickle.loads(pickle.dumps(xp))
    assert again.zeros((2,)).dtype == tf.float32
    assert arithmetic_of([None, tf.Variable([1.0])]).xp.float_dtype == tf.float64
