"""Bounded activations: in float64, to the bit as the frameworks' own, compiled, and differentiated."""

from functools import partial

import jax
import numpy as np
import pytest
import tensorflow as tf
import torch

from clipwise.errors import ArgumentError
from clipwise.functional.activations import (
    clamped_swiglu,
    clipped_relu,
    hard_tanh,
    pact,
    soft_cap,
    split_gate_up,
)
from tests.depth import brief
from tests.functional.frameworks import ALL, DIFFERENTIABLE, Jax, TensorFlow, Torch, named
from tests.x64 import enable_x64

SPECIAL = [-0.0, 0.0, 6.0, 1.0, -1.0, np.nan, np.inf, -np.inf, 1e-40, 3e38, -3e38]
X = np.concatenate([SPECIAL, np.random.default_rng(0).normal(0, 5, 50)]).astype(np.float32)
INSIDE = X[np.isfinite(X) & (np.abs(X) < 100)]

everywhere = pytest.mark.parametrize("framework", ALL, ids=named)
differentiable = pytest.mark.parametrize("framework", DIFFERENTIABLE, ids=named)


def bits(x):
    return np.ascontiguousarray(x).view({2: np.uint16, 4: np.uint32, 8: np.uint64}[x.dtype.itemsize])


def wide_swiglu(gate, up, limit=7.0, alpha=1.702, offset=1.0):
    gate, up = np.float64(gate), np.float64(up)
    g, u = np.minimum(gate, limit), np.clip(up, -limit, limit)
    with np.errstate(over="ignore", invalid="ignore"):
        return g / (1 + np.exp(-alpha * g)) * (u + offset)


ONE = {
    "clipped_relu": (clipped_relu, lambda x: np.minimum(np.maximum(x, 0), 6)),
    "clipped_relu(2.5)": (partial(clipped_relu, bound=2.5), lambda x: np.minimum(np.maximum(x, 0), 2.5)),
    "clipped_relu(inf)": (partial(clipped_relu, bound=np.inf), lambda x: np.maximum(x, 0)),
    "hard_tanh": (hard_tanh, lambda x: np.clip(x, -1, 1)),
    "hard_tanh(-2, 3)": (partial(hard_tanh, low=-2, high=3.0), lambda x: np.clip(x, -2, 3)),
    "pact(2.5)": (partial(pact, alpha=2.5), lambda x: np.minimum(np.maximum(x, 0), 2.5)),
    "soft_cap": (partial(soft_cap, cap=3.0), lambda x: 3 * np.tanh(x / 3)),
}


@everywhere
@pytest.mark.parametrize("name", ONE)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_values(framework, name, dtype):
    if framework is Jax and dtype == "float64":
        pytest.skip("JAX computes in float32 here")
    function, expected = ONE[name]
    with np.errstate(over="ignore"):
        x = framework.array(X.astype(dtype), dtype)
    found = framework.numpy(function(x))
    assert found.dtype == dtype
    wide = expected(framework.numpy(x).astype(np.float64))
    np.testing.assert_allclose(found, wide.astype(dtype), rtol=4 * np.finfo(dtype).eps, atol=1e-38)
    assert np.isnan(found[5])  # NaN stays


@everywhere
def test_half_range_floats_and_0d(framework):
    assert framework.numpy(clipped_relu(framework.array(7.0))).shape == ()
    assert framework.numpy(clipped_relu(framework.array(np.zeros((0, 3))))).shape == (0, 3)
    narrow = framework.numpy(clipped_relu(framework.array([6e4], "float16"), 1e9))
    assert narrow.tolist() == [np.float16(6e4)]


def test_plain_numbers():
    assert clipped_relu(7.0) == 6.0
    assert soft_cap(0.0, 5.0) == 0.0


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_to_the_bit_as_torch(dtype):
    x = Torch.array(X, dtype)
    width = {2: torch.int16, 4: torch.int32, 8: torch.int64}[x.element_size()]
    F = torch.nn.functional

    def same(found, expected):
        assert found.dtype == x.dtype
        assert torch.equal(found.view(width), expected.view(width))

    same(clipped_relu(x), F.relu6(x))
    same(hard_tanh(x), F.hardtanh(x))
    same(hard_tanh(x, -2.0, 0.5), F.hardtanh(x, -2.0, 0.5))
    same(soft_cap(x, 30.0), torch.tanh(x / 30.0) * 30.0)
    gate, up = x[:30], x[30:60]
    g, u = gate.clamp(max=7.0), up.clamp(-7.0, 7.0)  # as gpt-oss writes it
    same(clamped_swiglu(gate, up), (u + 1) * (g * torch.sigmoid(g * 1.702)))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_to_the_bit_as_jax(dtype):
    x = Jax.array(X, dtype)
    for found, expected in [
        (clipped_relu(x), jax.nn.relu6(x)),
        (jax.jit(clipped_relu)(x), jax.jit(jax.nn.relu6)(x)),
        (hard_tanh(x), jax.nn.hard_tanh(x)),
        (jax.jit(hard_tanh)(x), jax.jit(jax.nn.hard_tanh)(x)),
    ]:
        assert found.dtype == expected.dtype == x.dtype
        np.testing.assert_array_equal(bits(np.asarray(found)), bits(np.asarray(expected)))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("size", [1, 3, len(X)])  # TensorFlow's own treats -0.0 in a long array otherwise
def test_to_the_bit_as_tensorflow(dtype, size):
    x = TensorFlow.array(X[:size], dtype)
    for function in (lambda f: f, tf.function):
        found, expected = function(clipped_relu)(x), function(tf.nn.relu6)(x)
        np.testing.assert_array_equal(bits(found.numpy()), bits(expected.numpy()))


@differentiable
@pytest.mark.parametrize("name", ONE)
def test_compiled_is_the_same(framework, name):
    function, x = ONE[name][0], framework.array(X)
    found, expected = framework.numpy(framework.compiled(function)(x)), framework.numpy(function(x))
    if name == "soft_cap":  # compilers multiply with 1/3: the last bit may differ
        np.testing.assert_allclose(found, expected, rtol=3e-7, atol=1e-38)
    else:
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("backend", brief(["aot_eager", "inductor"], "aot_eager"))
def test_compiled_whole(backend):
    def both(x, alpha):
        return clipped_relu(x) + pact(x, alpha, axis=0) + clamped_swiglu(x, x) + soft_cap(x, 30.0)

    x, alpha = Torch.array(INSIDE[:40]), torch.full((40,), 2.0)
    found = torch.compile(both, fullgraph=True, backend=backend)(x, alpha)
    torch.testing.assert_close(found, both(x, alpha), rtol=1e-6, atol=1e-6)


@differentiable
def test_gradients_are_0_at_the_bounds_and_beyond(framework):
    x = framework.array([-3.0, -1.0, -0.0, 0.0, 0.5, 1.0, 6.0, 7.0])
    assert framework.gradients(clipped_relu, x)[0].tolist() == [0, 0, 0, 0, 1, 1, 0, 0]
    assert framework.gradients(partial(clipped_relu, bound=1), x)[0].tolist() == [0, 0, 0, 0, 1, 0, 0, 0]
    assert framework.gradients(hard_tanh, x)[0].tolist() == [0, 0, 1, 1, 1, 0, 0, 0]


@differentiable
def test_gradient_of_a_soft_cap(framework):
    x = framework.array(INSIDE)
    (found,) = framework.gradients(lambda x: soft_cap(x, 3.0), x)
    np.testing.assert_allclose(found, 1 - np.tanh(INSIDE.astype(np.float64) / 3) ** 2, rtol=1e-4, atol=1e-6)


@differentiable
def test_gradients_of_pact_are_the_papers(framework):
    x = framework.array([[-1.0, 0.0, 0.5], [2.0, 3.0, 1.9], [9.0, 2.9, 2.0]])
    alpha = framework.array([2.0, 3.0, 2.0])
    of_x, of_alpha = framework.gradients(lambda x, a: pact(x, a, axis=1), x, alpha)
    assert of_x.tolist() == [[0, 0, 1], [0, 0, 1], [0, 1, 0]]  # 1 where 0 < x < alpha
    assert of_alpha.tolist() == [2, 1, 1]  # how many are x >= alpha
    of_x, of_alpha = framework.gradients(pact, x, framework.array(2.0))
    assert of_x.tolist() == [[0, 0, 1], [0, 0, 1], [0, 0, 0]]
    assert of_alpha == 5
    compiled = framework.compiled(lambda x, a: pact(x, a, axis=1))
    assert framework.gradients(compiled, x, alpha)[1].tolist() == [2, 1, 1]


@differentiable
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_the_gradient_of_a_bound_is_summed_wider_than_a_half(framework, dtype):
    many = 70_001  # beyond float16, and more digits than bfloat16 has
    x = framework.array(np.full((many, 2), 9.0), dtype)
    for alpha, axis, expected in [(2.0, None, 2 * many), ([2.0, 10.0], 1, [many, 0])]:
        (of_alpha,) = framework.gradients(partial(pact, x, axis=axis), framework.array(alpha))
        assert of_alpha.dtype == np.float32
        np.testing.assert_array_equal(of_alpha, expected)


@everywhere
def test_pact_takes_its_bound_in_any_shape_that_fits(framework):
    x = np.arange(24.0).reshape(2, 3, 4)
    for alpha, axis in [
        (np.float64(5), None),
        ([5.0], None),
        ([5.0, 7, 9], 1),
        ([5.0, 7, 9, 8], -1),
        ([4.0], 0),
    ]:
        broad = np.reshape(alpha, (-1, 1) if axis == 1 else np.shape(alpha))
        found = framework.numpy(pact(framework.array(x), framework.array(alpha, "float64"), axis=axis))
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, np.minimum(x, broad))
    assert framework.numpy(pact(framework.array(3.0), framework.array([2.0]))).shape == ()
    assert np.isnan(framework.numpy(pact(framework.array([1.0]), framework.array(np.nan)))).all()
    for alpha, axis in [([1.0, 2.0], 1), ([1.0, 2.0], None), ([1.0], 3), (np.ones((1, 2, 3, 4)), None)]:
        with pytest.raises(ArgumentError, match=r"alpha of shape .* does not fit x of shape"):
            pact(framework.array(x), framework.array(alpha), axis=axis)


@everywhere
def test_hard_tanh_between_bounds_of_its_entries(framework):
    """As `numpy.clip`, torch.clamp and tf.clip_by_value have it, crossed bounds and NaN included."""
    x = np.concatenate([X[:59], [2.0]]).reshape(3, 4, 5)
    per_entry = np.random.default_rng(1).normal(0, 2, (3, 4, 5)).astype(np.float32)
    row, number = np.array([-1.0, -2, 0, np.nan, -np.inf], np.float32), np.array(2.0, np.float32)
    for low, high in [(per_entry, per_entry + 1), (per_entry, -per_entry), (row, number), (-3.0, per_entry)]:
        low_, high_ = (b if isinstance(b, float) else framework.array(b) for b in (low, high))
        found = framework.numpy(hard_tanh(framework.array(x), low_, high_))
        np.testing.assert_array_equal(found, np.clip(x, low, high))
    found = framework.numpy(hard_tanh(framework.array(x), np.array([-1.0, 0, 1]), np.inf, axis=0))
    np.testing.assert_array_equal(found, np.maximum(x, np.reshape([-1.0, 0, 1], (3, 1, 1)), dtype=np.float32))
    with pytest.raises(ArgumentError, match=r"low of shape \(2,\) does not fit x of shape \(3, 4, 5\)"):
        hard_tanh(framework.array(x), framework.array([1.0, 2.0]), 3.0)
    with pytest.raises(ArgumentError, match="high must be floating-point"):
        hard_tanh(framework.array(x), -1.0, framework.integers([1, 2]))


@differentiable
def test_gradients_between_bounds_of_entries(framework):
    x, low, high = (framework.array(a) for a in ([-3.0, -1.0, 0.0, 2.0, 4.0], -np.ones(5), [2.0]))
    found = framework.gradients(hard_tanh, x, low, high)
    assert [g.tolist() for g in found] == [[0, 0, 1, 0, 0], [1, 1, 0, 0, 0], [2]]


def test_pact_where_its_bound_fell_below_0():
    x = np.array([-3.0, -1.0, 0.0, 2.0])
    assert pact(x, np.array(-1.0)).tolist() == [0, -1, -1, -1]
    assert Torch.gradients(pact, Torch.array(x), Torch.array(-1.0))[1] == 3


@everywhere
@pytest.mark.parametrize("settings", [{}, {"limit": 2.0}, {"alpha": 1.0}, {"offset": 0.0}])
def test_clamped_swiglu(framework, settings):
    gate, up = X[11:41] * 2, X[31:61] * 2
    found = clamped_swiglu(framework.array(gate), framework.array(up), **settings)
    np.testing.assert_allclose(
        framework.numpy(found), wide_swiglu(gate, up, **settings), rtol=1e-5, atol=1e-7
    )
    edges = framework.numpy(
        clamped_swiglu(framework.array([np.inf, -1e30, np.nan, 1.0]), framework.array([np.inf, 1, 1, np.nan]))
    )
    np.testing.assert_allclose(edges, [8 * 7 / (1 + np.exp(-7 * 1.702)), 0, np.nan, np.nan], rtol=1e-6)


@differentiable
def test_gradients_of_clamped_swiglu(framework):
    gate = np.array([-2.0, 0.5, 6.0, 8.0, 1.0], np.float32)
    up = np.array([1.0, -8.0, 3.0, 2.0, 9.0], np.float32)
    of_gate, of_up = framework.gradients(clamped_swiglu, framework.array(gate), framework.array(up))
    h = 1e-5
    wide = np.float64(gate), np.float64(up)
    for found, at in ((of_gate, 0), (of_up, 1)):
        above, below = list(wide), list(wide)
        above[at], below[at] = wide[at] + h, wide[at] - h
        expected = (wide_swiglu(*above) - wide_swiglu(*below)) / (2 * h)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    assert of_gate[3] == of_up[1] == of_up[4] == 0


@everywhere
def test_halves_of_a_projection(framework):
    x = framework.array(np.arange(12.0).reshape(2, 6))
    gate, up = split_gate_up(x)
    assert framework.numpy(gate).tolist() == [[0, 2, 4], [6, 8, 10]]
    assert framework.numpy(up).tolist() == [[1, 3, 5], [7, 9, 11]]
    gate, up = split_gate_up(x, interleaved=False)
    assert framework.numpy(gate).tolist() == [[0, 1, 2], [6, 7, 8]]
    assert framework.numpy(up).tolist() == [[3, 4, 5], [9, 10, 11]]
    for odd in (framework.array([1.0, 2.0, 3.0]), framework.array(1.0)):
        with pytest.raises(ArgumentError, match="last axis must have an even length"):
            split_gate_up(odd)


@everywhere
def test_what_is_refused(framework):
    x, whole = framework.array([1.0]), framework.integers([1, 2])
    for bound in (0, 0.0, -1.0, np.nan, "6", None, True):
        with pytest.raises(ArgumentError, match=r"bound must be a .*number"):
            clipped_relu(x, bound)
    for cap in (0.0, np.inf, -1.0):
        with pytest.raises(ArgumentError, match="cap must be a finite number above 0"):
            soft_cap(x, cap)
    for low, high in ((1.0, 1.0), (2.0, 1.0)):
        with pytest.raises(ArgumentError, match="low must be below high"):
            hard_tanh(x, low, high)
    for name in ("low", "high"):
        with pytest.raises(ArgumentError, match=f"{name} must be a number, got nan"):
            hard_tanh(x, **{name: np.nan})
    for function in (clipped_relu, hard_tanh, partial(pact, alpha=1.0), partial(soft_cap, cap=1.0)):
        with pytest.raises(ArgumentError, match=r"x must be floating-point, got .*int"):
            function(whole)
    with pytest.raises(ArgumentError, match="alpha must be floating-point"):
        pact(x, whole)
    with pytest.raises(ArgumentError, match="alpha must be a number above 0"):
        pact(x, -1.0)
    with pytest.raises(ArgumentError, match="the same shape"):
        clamped_swiglu(x, framework.array([1.0, 2.0]))
    for wrong in ({"limit": 0}, {"alpha": np.inf}, {"offset": np.nan}):
        with pytest.raises(ArgumentError, match=next(iter(wrong))):
            clamped_swiglu(x, x, **wrong)


def test_pact_where_tensorflow_does_not_know_the_axes_yet():
    x = np.array([[-1.0, 2.0, 9.0]], np.float32)
    unknown = [tf.TensorSpec(None, tf.float32)]
    one = tf.function(lambda x: pact(x, 3.0), input_signature=unknown, autograph=False)
    assert one(x).numpy().tolist() == [[0, 2, 3]]
    for wrong in (lambda x: pact(x, np.ones(3), axis=1), lambda x: split_gate_up(x)):
        with pytest.raises(ArgumentError, match="x must have a known number of axes"):
            tf.function(wrong, input_signature=unknown, autograph=False)(x)


def test_what_is_no_array_or_of_two_frameworks():
    for wrong in ([1.0], None, "x"):
        with pytest.raises(ArgumentError, match="x must be an array of numpy, torch, JAX or TensorFlow"):
            clipped_relu(wrong)
    with pytest.raises(ArgumentError, match="the same framework"):
        clamped_swiglu(np.ones(1), torch.ones(1))
    with pytest.raises(ArgumentError, match="framework of x"):
        pact(np.ones(1), torch.ones(1))


@everywhere
def test_a_bound_has_all_the_digits_of_its_arrays_type(framework):
    """0.1 by way of float32 would be off by 1e-9."""
    with enable_x64(True):
        x = framework.array([-9.0, 9.0], "float64")
        assert framework.numpy(hard_tanh(x, -0.1, 0.1)).tolist() == [-0.1, 0.1]
        assert framework.numpy(pact(x, 0.1)).tolist() == [0.0, 0.1]


@everywhere
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_a_bound_beyond_the_range_of_the_type_is_infinite(framework, dtype):
    x = framework.array([-3.0, 6e4], dtype)
    for found in (hard_tanh(x, -1e300, 1e300), pact(x, 1e300)):
        assert framework.numpy(found)[1] == np.dtype(dtype).type(6e4)


@differentiable
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_gradients_on_a_tie_between_entry_and_learned_bound(framework, dtype):
    """On the bound the entry is cut off, and moves the bound; a bound of 0 cuts off everything."""
    x = framework.array([0.5, 2.0, 2.0, -0.0, 3.0], dtype)
    of_x, of_alpha = framework.gradients(pact, x, framework.array(2.0))
    assert (of_x.tolist(), float(of_alpha)) == ([1, 0, 0, 0, 0], 3)
    of_x, of_alpha = framework.gradients(pact, x, framework.array(0.0))
    assert (of_x.tolist(), float(of_alpha)) == ([0] * 5, 5)


@differentiable
def test_gradients_of_clamped_swiglu_on_its_limits_are_0(framework):
    gate, up = framework.array([7.0, 7.1, 1.0, 1.0]), framework.array([1.0, 1.0, 7.0, -7.0])
    of_gate, of_up = framework.gradients(clamped_swiglu, gate, up)
    assert of_gate[:2].tolist() == [0, 0]
    assert of_up[2:].tolist() == [0, 0]
    assert (np.abs(of_gate[2:]) > 0).all()
    assert (of_up[0] > 0).all()
