"""Clipped projections, logits and the factors of QK-Clip, against float64 numpy."""

import numpy as np
import pytest
import tensorflow as tf
import torch

from clipwise.errors import ArgumentError
from clipwise.functional import attention
from clipwise.functional.attention import clip_logits, clip_qkv, max_logits, qk_clip_factors, soft_cap_logits
from clipwise.namespace import Namespace
from tests.functional.frameworks import ALL, DIFFERENTIABLE, Numpy, named

RNG = np.random.default_rng(1)
Q, K = RNG.normal(size=(3, 6, 7, 4)), RNG.normal(size=(3, 2, 9, 4))
everywhere = pytest.mark.parametrize("framework", ALL, ids=named)


def by_hand(q, k, seen=None, scale=None):
    """The largest logit of each head of q, query by query."""
    share = q.shape[1] // k.shape[1]
    found = np.full(q.shape[1], -np.inf)
    for b, h, i, j in np.ndindex(*q.shape[:3], k.shape[2]):
        if seen is None or np.broadcast_to(seen, (*q.shape[:3], k.shape[2]))[b, h, i, j]:
            logit = q[b, h, i] @ k[b, h // share, j] * (scale or q.shape[-1] ** -0.5)
            found[h] = max(found[h], logit)
    return found


@everywhere
@pytest.mark.parametrize("rows", [3, 1024])
@pytest.mark.parametrize("masked", [None, "keys", "places", "heads"])
def test_largest_logits(framework, rows, masked, monkeypatch):
    monkeypatch.setattr(attention, "ROWS", rows)
    shapes = {"keys": (3, 1, 1, 9), "places": (7, 9), "heads": (1, 6, 7, 9)}
    seen = RNG.random(shapes[masked]) < 0.3 if masked else None
    mask = None if seen is None else framework.integers(seen)
    found = framework.numpy(max_logits(framework.array(Q), framework.array(K), mask=mask))
    np.testing.assert_allclose(found, by_hand(Q, K, seen), rtol=1e-5)


@everywhere
def test_largest_logits_of_causal_attention(framework, monkeypatch):
    monkeypatch.setattr(attention, "ROWS", 3)
    k = np.random.default_rng(2).normal(size=(3, 6, 7, 4))
    found = max_logits(framework.array(Q), framework.array(k), causal=True, scale=2.0)
    expected = by_hand(Q, k, np.tril(np.ones((7, 7), bool)), 2.0)
    np.testing.assert_allclose(framework.numpy(found), expected, rtol=1e-5)
    assert not np.allclose(expected, by_hand(Q[:, :, :7], k, None, 2.0))


@everywhere
def test_largest_logits_of_narrow_types_and_of_nothing(framework):
    big = framework.array(np.full((1, 1, 1, 4), 300.0), "float16")  # 360,000 is beyond float16
    assert framework.numpy(max_logits(big, big)).tolist() == [180000.0]
    nothing = framework.integers(np.zeros((1, 1), bool))
    assert framework.numpy(max_logits(big, big, mask=nothing)).tolist() == [-np.inf]


@everywhere
def test_a_logit_of_nan_stays_among_others(framework):
    q = np.ones((2, 3, 5, 4))
    q[1, 2, 3, 0] = np.nan
    found = framework.numpy(max_logits(framework.array(q), framework.array(np.ones((2, 3, 5, 4)))))
    np.testing.assert_array_equal(found, [2, 2, np.nan])


def test_keys_are_widened_once_and_not_repeated(monkeypatch):
    given, products = [], Namespace.row_products
    monkeypatch.setattr(attention, "ROWS", 3)
    monkeypatch.setattr(Namespace, "row_products", lambda xp, q, k: given.append(k) or products(xp, q, k))
    max_logits(Q.astype(np.float16), K.astype(np.float16))
    assert len(given) == 3
    assert all(k is given[0] and k.shape == K.shape and k.dtype == np.float32 for k in given)


@pytest.mark.parametrize("framework", DIFFERENTIABLE, ids=named)
def test_compiled_is_the_same(framework):
    def both(q, k):
        return qk_clip_factors(max_logits(q, k, scale=60.0), kv_heads=2, shared="min")

    q, k = framework.array(Q), framework.array(K)
    for found, expected in zip(framework.compiled(both)(q, k), both(q, k), strict=True):
        np.testing.assert_allclose(framework.numpy(found), framework.numpy(expected), rtol=1e-6)


def test_lengths_that_tensorflow_does_not_know_yet():
    def traced(q, k):
        shapes = [tf.TensorSpec(shape, tf.float32) for shape in (q, k)]
        return tf.function(max_logits, input_signature=shapes, autograph=False)

    q, k = tf.constant(Q, tf.float32), tf.constant(K, tf.float32)
    found = traced((None, 6, 7, 4), (None, 2, None, 4))(q, k)
    np.testing.assert_allclose(found, by_hand(Q, K), rtol=1e-5)
    for shapes, words in [
        (((3, 6, None, 4), K.shape), r"queries, got q of shape \(3, 6, None, 4\)"),
        (((3, None, 7, 4), K.shape), "heads of q, got"),
        ((Q.shape, (3, None, 9, 4)), "heads of k, got"),
        ((None, K.shape), "q must have a known number of axes"),
    ]:
        with pytest.raises(ArgumentError, match=words):
            traced(*shapes)(q, k)


@everywhere
def test_a_head_below_any_tau_is_left_alone_to_the_bit(framework):
    """tau * (1 / tau), as torch divides a number by a tensor, is not 1 for 3 taus of 20."""
    for tau in np.linspace(1.0, 7.0, 20):
        for factors in qk_clip_factors(framework.array([0.5, 900.0]), tau=float(tau)):
            assert framework.numpy(factors)[0] == 1.0


@everywhere
def test_factors(framework):
    largest = framework.array([400.0, 100.0, -900.0, 0.0, np.inf, np.nan, -np.inf, 101.0])
    q, k = map(framework.numpy, qk_clip_factors(largest))
    np.testing.assert_allclose(q, [0.5, 1, 1, 1, 1, 1, 1, (100 / 101) ** 0.5], rtol=1e-6)
    assert q[1:7].tolist() == [1.0] * 6  # exactly
    np.testing.assert_array_equal(q, k)
    q, k = map(framework.numpy, qk_clip_factors(largest, tau=50.0, alpha=0.25))
    np.testing.assert_allclose([q[0], k[0]], [(1 / 8) ** 0.25, (1 / 8) ** 0.75], rtol=1e-6)


@everywhere
def test_factors_of_shared_keys(framework):
    largest = framework.array([400.0, 60.0, 200.0, 50.0, 20.0, 100.0])
    q, k = map(framework.numpy, qk_clip_factors(largest, kv_heads=2))
    np.testing.assert_allclose(q, [0.25, 1, 0.5, 1, 1, 1])
    assert k.tolist() == [1, 1]
    q, k = map(framework.numpy, qk_clip_factors(largest, kv_heads=2, shared="min"))
    np.testing.assert_allclose(q, [0.5, 1, 0.5**0.5, 1, 1, 1], rtol=1e-6)
    np.testing.assert_allclose(k, [0.5, 1], rtol=1e-6)


@everywhere
def test_projections_and_logits(framework):
    x = framework.array([-30.0, -8.0, 2.0, 9.0, np.inf, -np.inf, np.nan])
    np.testing.assert_array_equal(framework.numpy(clip_qkv(x, 8)), [-8, -8, 2, 8, 8, -8, np.nan])
    np.testing.assert_array_equal(framework.numpy(clip_logits(x, 8)), [-8, -8, 2, 8, 8, -np.inf, np.nan])
    expected = [*(8 * np.tanh(np.array([-30.0, -8, 2, 9]) / 8)), 8, -np.inf, np.nan]
    np.testing.assert_allclose(framework.numpy(soft_cap_logits(x, 8)), expected, rtol=1e-6)


@pytest.mark.parametrize("framework", DIFFERENTIABLE, ids=named)
def test_no_gradient_of_a_masked_logit_is_nan(framework):
    x = framework.array([-np.inf, 9.0, 2.0])
    assert framework.gradients(lambda x: clip_logits(x, 8.0)[1:], x)[0].tolist() == [0, 0, 1]
    (found,) = framework.gradients(lambda x: soft_cap_logits(x, 8.0)[1:], x)
    assert np.isfinite(found).all()


@everywhere
def test_a_mask_that_says_something_else_is_refused(framework):
    q, k = framework.array(Q), framework.array(K)
    causal = np.tril(np.ones((7, 9), bool))
    added = framework.array(np.where(causal, 0.0, -np.inf))  # to be added: true where nothing is seen
    for mask in (added, framework.integers(causal.astype(np.int64)), causal.tolist(), "causal"):
        with pytest.raises(ArgumentError, match=r"mask must be .*got"):
            max_logits(q, k, mask=mask)
    other = causal if framework is not Numpy else torch.tensor(causal)
    with pytest.raises(ArgumentError, match="mask must be of booleans in the framework of q"):
        max_logits(q, k, mask=other)
    for shape in ((9, 7), (2, 7, 9), (7,), (1, 3, 6, 7, 9)):
        with pytest.raises(ArgumentError, match=r"mask of shape .* to \(3, 6, 7, 9\)"):
            max_logits(q, k, mask=framework.integers(np.ones(shape, bool)))


def test_what_is_refused():
    q = np.ones((2, 4, 5, 3))
    for k in (q[:, :3], q[..., :2], q[0], q[:1], q[:, :, :0], q[0, 0]):
        with pytest.raises(ArgumentError, match=r"q must be of shape \(..., heads, queries, d\)"):
            max_logits(q, k)
    with pytest.raises(ArgumentError, match="causal needs as many queries as keys, got 5 and 2"):
        max_logits(q, q[:, :, :2], causal=True)
    with pytest.raises(ArgumentError, match="scale must be"):
        max_logits(q, q, scale=0.0)
    with pytest.raises(ArgumentError, match="q must be floating-point"):
        max_logits(q.astype(int), q)
    for wrong in ({"tau": 0}, {"tau": np.inf}, {"alpha": 1.1}, {"alpha": np.nan}, {"shared": "k"}):
        with pytest.raises(ArgumentError, match=f"{next(iter(wrong))} must be"):
            qk_clip_factors(np.ones(4), **wrong)
    for heads in (3, 0, 8, 2.0):
        with pytest.raises(ArgumentError, match="heads a multiple of kv_heads"):
            qk_clip_factors(np.ones(4), kv_heads=heads)
    with pytest.raises(ArgumentError, match="largest must be of shape"):
        qk_clip_factors(np.array(3.0))
    with pytest.raises(ArgumentError, match="bound must be"):
        clip_qkv(q, -1.0)
