"""Gradients by each framework against central differences, and where there must be none."""

import jax
import numpy as np
import pytest
import tensorflow as tf
import torch

from clipwise.functional import ratios
from tests.depth import thorough
from tests.functional.ratios import cases, frameworks
from tests.x64 import enable_x64

LOSSES = {
    "ppo": lambda x, o, a, s, m: ratios.ppo_clip(x, o, a, mask=m).loss,
    "dapo": lambda x, o, a, s, m: ratios.dapo(x, o, a, mask=m).loss,
    "dual": lambda x, o, a, s, m: ratios.dual_clip(x, o, a, dual=1.3, mask=m).loss,
    "two_sided": lambda x, o, a, s, m: ratios.two_sided(x, o, a, delta=1.3, mask=m).loss,
    "grpo": lambda x, o, a, s, m: ratios.grpo(x, o, a, mask=m).loss,
    "dr_grpo": lambda x, o, a, s, m: ratios.dr_grpo(x, o, a, length=10, mask=m).loss,
    "gspo": lambda x, o, a, s, m: ratios.gspo(x, o, s, low=0.1, high=0.1, mask=m).loss,
    "value": lambda x, o, a, s, m: ratios.value_clip(x, o, o + a, 0.3, mask=m).loss,
    "value clipped": lambda x, o, a, s, m: (
        ratios.value_clip(x, o, o + a, 0.3, mask=m, convention="clipped").loss
    ),
}


@pytest.mark.parametrize("kind", frameworks.DIFFERENTIABLE)
@pytest.mark.parametrize("name", LOSSES)
def test_by_finite_differences(kind, name):
    logp, *rest = cases.batch(11)
    found = frameworks.gradient(kind, lambda x: LOSSES[name](x, *rest), logp)
    wanted = frameworks.differences(lambda x: LOSSES[name](x, *rest), logp)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-8)
    assert 0 < np.count_nonzero(found[rest[-1]]) <= rest[-1].sum()


@pytest.mark.parametrize("kind", frameworks.DIFFERENTIABLE)
@pytest.mark.parametrize("settings", [{"high": 0.2}, {"high": 1.2, "convention": "trl"}])
def test_cispo_keeps_the_gradient_of_every_token(kind, settings):
    """Its gradient is that of log-probabilities weighted by constants: min(r, 1.2) A."""
    logp, old, worth, _, mask = cases.batch(12)
    found = frameworks.gradient(kind, lambda x: ratios.cispo(x, old, worth, mask=mask, **settings).loss, logp)
    wanted = -np.minimum(np.exp(logp - old), 1.2) * worth * mask / mask.sum()
    np.testing.assert_allclose(found, wanted, rtol=1e-12)
    assert (np.exp(logp - old)[mask] > 1.2).any()
    assert np.count_nonzero(found) == mask.sum()


@pytest.mark.parametrize("kind", frameworks.DIFFERENTIABLE)
def test_one_step_on_own_actions_is_the_policy_gradient(kind):
    """With the same log-probabilities r is 1 everywhere, where both sides of the minimum are equal."""
    logp, _, worth, _, mask = cases.batch(13)
    found = frameworks.gradient(kind, lambda x: ratios.ppo_clip(x, x, worth, mask=mask).loss, logp)
    np.testing.assert_allclose(found, -worth * mask / mask.sum(), rtol=1e-12)


@pytest.mark.parametrize("kind", frameworks.DIFFERENTIABLE)
def test_gradient_on_the_bounds(kind):
    """On a bound, and where nothing has moved, every framework gives the derivative from inside."""
    logp = np.zeros((2,))
    old = np.zeros((2,))
    worth = np.asarray([1.0, -1.0])
    found = frameworks.gradient(kind, lambda x: ratios.ppo_clip(x, old, worth, low=0.0).loss, logp)
    np.testing.assert_allclose(found, -worth / 2)
    found = frameworks.gradient(kind, lambda x: ratios.value_clip(x, old, worth, 0.0).loss, logp)
    np.testing.assert_allclose(found, -worth / 2)


@pytest.mark.parametrize("kind", frameworks.DIFFERENTIABLE)
def test_beyond_the_bound_the_ratio_is_a_constant(kind):
    """On the bound itself it is not."""
    logp = np.asarray([30.0, 20.0, -30.0, 0.0])
    worth = np.asarray([-1.0, -1.0, 1.0, 1.0])
    loss = frameworks.value(kind, lambda x: ratios.ppo_clip(x, np.zeros(4), worth).loss, logp)
    np.testing.assert_allclose(loss, (2 * np.exp(20) - np.exp(-20) - 1) / 4, rtol=1e-12)
    found = frameworks.gradient(kind, lambda x: ratios.ppo_clip(x, np.zeros(4), worth).loss, logp)
    np.testing.assert_allclose(found, [0.0, np.exp(20) / 4, 0.0, -0.25], rtol=1e-12)
    nearer = frameworks.value(kind, lambda x: ratios.ppo_clip(x, np.zeros(4), worth, bound=5).loss, logp)
    np.testing.assert_allclose(nearer, (2 * np.exp(5) - np.exp(-5) - 1) / 4, rtol=1e-12)


@pytest.mark.parametrize("kind", frameworks.DIFFERENTIABLE)
@pytest.mark.parametrize("name", LOSSES)
def test_padding_may_hold_anything(kind, name):
    """NaN and Inf where the mask leaves out: the loss and its gradient are those without them."""
    logp, old, worth, by_sequence, mask = cases.batch(14)
    mask[2] = False
    rest = old, worth, by_sequence, mask
    wanted = frameworks.value(kind, lambda x: LOSSES[name](x, *rest), logp)
    slope = frameworks.gradient(kind, lambda x: LOSSES[name](x, *rest), logp)
    logp, old, worth, by_sequence = (x.copy() for x in (logp, old, worth, by_sequence))
    logp[~mask], old[~mask], worth[~mask], by_sequence[2] = -np.inf, np.nan, np.inf, np.nan
    rest = old, worth, by_sequence, mask
    assert frameworks.value(kind, lambda x: LOSSES[name](x, *rest), logp) == wanted
    found = frameworks.gradient(kind, lambda x: LOSSES[name](x, *rest), logp)
    np.testing.assert_array_equal(found, slope)
    assert not found[~mask].any()


@pytest.mark.parametrize("kind", frameworks.DIFFERENTIABLE)
@pytest.mark.parametrize("how", ["token_mean", "sequence_mean", "constant"])
def test_nothing_counts(kind, how):
    logp, old, worth, _, mask = cases.batch(15)
    settings = {"aggregate": how, "mask": mask & False, "length": 9 if how == "constant" else None}
    loss, figures = frameworks.value(kind, lambda x: ratios.ppo_clip(x, old, worth, **settings), logp)
    assert loss == 0
    assert figures.metrics("") == dict.fromkeys(figures._fields, 0.0) | dict.fromkeys(
        ("ratio_min", "ratio_max", "ratio_mean"), 1.0
    )
    found = frameworks.gradient(kind, lambda x: ratios.ppo_clip(x, old, worth, **settings).loss, logp)
    assert not found.any()


def test_only_the_new_policy_is_differentiated():
    logp, old, worth, _, _ = (torch.tensor(x, requires_grad=x.dtype == float) for x in cases.batch(16))
    loss, figures = ratios.ppo_clip(logp, old, worth)
    loss.backward()
    assert logp.grad is not None
    assert old.grad is None
    assert worth.grad is None
    assert not any(figure.requires_grad for figure in figures)
    value, figures = ratios.value_clip(logp, old, worth)
    value.backward()
    assert old.grad is None
    assert worth.grad is None
    assert not any(figure.requires_grad for figure in figures)
    slopes = jax.grad(lambda o, a: ratios.ppo_clip(logp.detach().numpy() + 0 * o, o, a).loss, (0, 1))
    slope = slopes(jax.numpy.asarray(old.detach().numpy()), jax.numpy.asarray(worth.detach().numpy()))
    assert not np.asarray(slope[1]).any()
    variables = [tf.Variable(x.detach().numpy()) for x in (logp, old, worth)]
    with tf.GradientTape() as tape:
        loss = ratios.ppo_clip(*variables).loss
    slope = tape.gradient(loss, variables)
    assert slope[0] is not None
    assert slope[1] is None
    assert slope[2] is None


@thorough
def test_compiled():
    """jit with the figures as auxiliary output, tf.function with unknown lengths."""
    logp, old, worth, _, mask = cases.batch(17)
    plain = ratios.grpo(logp, old, worth, mask=mask)
    compiled = jax.jit(jax.value_and_grad(lambda x: ratios.grpo(x, old, worth, mask=mask), has_aux=True))
    with enable_x64(True):
        (loss, figures), _ = compiled(jax.numpy.asarray(logp))
    np.testing.assert_allclose([loss, *figures], [plain.loss, *plain.figures], rtol=1e-12)

    shape = tf.TensorSpec([None, None], tf.float64)
    flags = tf.TensorSpec([None, None], tf.bool)

    @tf.function(input_signature=[shape, shape, shape, flags])
    def step(x, o, a, m):
        return ratios.grpo(x, o, a, mask=m)

    loss, figures = step(logp, old, worth, mask)
    np.testing.assert_allclose([loss, *figures], [plain.loss, *plain.figures], rtol=1e-12)
