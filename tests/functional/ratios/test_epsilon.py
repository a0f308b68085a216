"""Epsilon as a number, a schedule, a function, an array; and what is refused."""

import jax
import numpy as np
import pytest
import tensorflow as tf
import torch

from clipwise import thresholds
from clipwise.errors import ArgumentError, ThresholdError
from clipwise.functional import ratios
from tests.depth import thorough
from tests.functional.ratios import cases, frameworks
from tests.x64 import enable_x64

LOGP, OLD, WORTH, BY_SEQUENCE, MASK = cases.batch(31)


def loss(low, step=None, **settings):
    return float(ratios.ppo_clip(LOGP, OLD, WORTH, low=low, step=step, **settings).loss)


@pytest.mark.parametrize(
    ("low", "step", "same"),
    [
        (thresholds.linear(0.3, 0.1, steps=10), 0, 0.3),
        (thresholds.linear(0.3, 0.1, steps=10), 5, 0.2),
        (thresholds.linear(0.3, 0.1, steps=10), 99, 0.1),
        (thresholds.cosine(0.3, 0.1, steps=10), 5, 0.2),
        (thresholds.exponential(0.4, 0.1, steps=10), 5, 0.2),
        (thresholds.fixed(0.2), 7, 0.2),
        (thresholds.schedule(lambda step: 0.4 / (1 + step)), 1, 0.2),
        (lambda step: 0.1 if step > 3 else 0.3, 4, 0.1),
        (np.float32(0.25), None, 0.25),
        (np.asarray(0.25), None, 0.25),
    ],
)
def test_schedules(low, step, same):
    np.testing.assert_allclose(loss(low, step), loss(same), rtol=1e-12)


def test_each_side_and_the_value_have_their_own():
    linear = thresholds.linear(0.3, 0.1, steps=10)
    both = ratios.ppo_clip(LOGP, OLD, WORTH, low=linear, high=lambda step: 0.01 * step, step=5).loss
    assert both == pytest.approx(loss(0.2, high=0.05), rel=1e-12)
    found = ratios.value_clip(LOGP, OLD, WORTH, linear, step=5).loss
    assert found == pytest.approx(float(ratios.value_clip(LOGP, OLD, WORTH, 0.2).loss), rel=1e-12)
    found = ratios.cispo(LOGP, OLD, WORTH, high=linear, step=5).loss
    assert found == pytest.approx(float(ratios.cispo(LOGP, OLD, WORTH, high=0.2).loss), rel=1e-12)


@pytest.mark.parametrize("kind", frameworks.MAKE)
def test_a_step_that_is_an_array(kind):
    """On the device or traced: the schedule is computed there."""
    linear = thresholds.linear(0.3, 0.1, steps=10)
    with enable_x64(True):
        step = frameworks.MAKE[kind](np.asarray(5))
        found = ratios.ppo_clip(frameworks.MAKE[kind](LOGP), OLD, WORTH, low=linear, step=step).loss
        np.testing.assert_allclose(np.asarray(found), loss(0.2), rtol=1e-12)
        if kind == "jax":
            compiled = jax.jit(lambda x, t: ratios.ppo_clip(x, OLD, WORTH, low=linear, step=t).loss)
            np.testing.assert_allclose(compiled(LOGP, 5), loss(0.2), rtol=1e-12)
            given = jax.jit(lambda x, low: ratios.ppo_clip(x, OLD, WORTH, low=low).loss)
            np.testing.assert_allclose(given(LOGP, 0.2), loss(0.2), rtol=1e-12)
    if kind == "tensorflow":
        compiled = tf.function(
            lambda x, t: ratios.ppo_clip(x, OLD, WORTH, low=linear, step=t).loss, autograph=False
        )
        np.testing.assert_allclose(compiled(tf.constant(LOGP), tf.constant(5)), loss(0.2), rtol=1e-12)


@pytest.mark.parametrize(
    ("low", "step", "whole"),
    [
        (0.2, None, True),
        (torch.tensor(0.2, dtype=torch.float64), None, True),
        (thresholds.linear(0.3, 0.1, steps=10), torch.tensor(5), True),
        (lambda step: 0.04 * step, 5, True),
        (np.float64(0.2), None, False),
        (thresholds.linear(0.3, 0.1, steps=10), 5, False),
    ],
    ids=["number", "tensor", "schedule of a tensor", "function", "numpy's", "schedule of a number"],
)
@thorough
def test_in_torchs_compiler(low, step, whole):
    """In one graph; what numpy computes is a graph break."""
    torch.compiler.reset()

    @torch.compile(backend="eager", fullgraph=whole)
    def compiled(logp, old, worth, step):
        return ratios.ppo_clip(logp, old, worth, low=low, step=step).loss

    found = compiled(torch.tensor(LOGP), torch.tensor(OLD), torch.tensor(WORTH), step)
    assert found.item() == pytest.approx(loss(0.2), rel=1e-12)


@pytest.mark.parametrize(
    ("high", "step"),
    [
        (lambda step: 0.28, 0),
        (thresholds.linear(0.3, 0.28, steps=2), 2),
        (np.asarray(0.28), None),
    ],
    ids=["function", "schedule", "array"],
)
def test_the_delta_of_two_sided_is_above_an_epsilon_that_moves(high, step):
    given = {"high": high, "step": step}
    found = ratios.two_sided(LOGP, OLD, WORTH, delta=1.4, **given).loss
    assert found == pytest.approx(float(ratios.two_sided(LOGP, OLD, WORTH, delta=1.4, high=0.28).loss))
    with pytest.raises(ThresholdError, match=r"delta must be above 1 [+] high, 1.28, got 1.1"):
        ratios.two_sided(LOGP, OLD, WORTH, delta=1.1, **given)


def test_a_delta_below_what_only_the_device_knows():
    """By the formula: a ratio of 1.5 with an advantage of -1, clipped at 1.28."""
    logp, old, worth = torch.tensor([1.5]).log(), torch.zeros(1), -torch.ones(1)
    found = ratios.two_sided(logp, old, worth, delta=1.1, high=torch.tensor(0.28)).loss
    assert found.item() == pytest.approx(1.28)


def test_a_function_is_asked_once():
    asked = []
    loss(lambda step: asked.append(step) or 0.2, step=3)
    assert asked == [3]


def test_an_epsilon_on_the_device_is_brought_inside_and_is_a_constant():
    logp = torch.tensor(LOGP)
    low = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)
    found = ratios.ppo_clip(logp.requires_grad_(), torch.tensor(OLD), torch.tensor(WORTH), low=low).loss
    found.backward()
    assert low.grad is None
    assert found.item() == pytest.approx(loss(0.2))
    for outside, inside in ((-0.5, 0.0), (1.5, 1.0)):
        found = ratios.ppo_clip(logp, OLD, WORTH, low=torch.tensor(outside), high=0.1).loss
        assert found.item() == pytest.approx(loss(inside, high=0.1))


@pytest.mark.parametrize(
    ("low", "words"),
    [
        (-0.1, r"low must be within \[0, 1\], got -0.1"),
        (1.5, r"low must be within \[0, 1\], got 1.5"),
        (float("nan"), "low must be a number, got NaN"),
        ("0.2", "low must be a number, got '0.2'"),
        (None, "low must be a number, got None"),
        (True, "low must be a number, got True"),
        (thresholds.linear(0.2, 3.0, steps=5), r"low.stop must be within \[0, 1\], got 3"),
        (lambda step: -1.0, r"low must be within \[0, 1\], got -1"),
    ],
)
def test_outside_numbers(low, words):
    with pytest.raises(ThresholdError, match=words):
        loss(low, step=0)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: loss(0.2, high=-0.1), "high must be at least 0, got -0.1"),
        (lambda: loss(0.2, dual=-3.0), "dual must be above 1, got -3"),
        (lambda: loss(0.2, dual=1.0), "dual must be above 1, got 1.0"),
        (lambda: loss(0.2, dual="3"), "dual must be a number"),
        (lambda: loss(0.2, bound=0.0), "bound must be above 0, got 0.0"),
        (lambda: loss(0.2, bound=700.0), r"bound must be within \[0, 40\], got 700"),
        (
            lambda: ratios.two_sided(LOGP, OLD, WORTH, delta=1.2),
            "delta must be above 1 [+] high, 1.2, got 1.2",
        ),
        (
            lambda: ratios.two_sided(LOGP, OLD, WORTH, delta=1.25, high=0.3),
            "delta must be above 1 [+] high, 1.3, got 1.25",
        ),
        (lambda: ratios.cispo(LOGP, OLD, WORTH, high=-1.0), "high must be at least 0"),
        (lambda: ratios.value_clip(LOGP, OLD, WORTH, -0.2), "epsilon must be at least 0, got -0.2"),
    ],
)
def test_other_numbers(call, words):
    with pytest.raises(ThresholdError, match=words):
        call()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: loss(thresholds.linear(0.2, 0.1, steps=5)), "low follows the step: say which one"),
        (lambda: loss(lambda step: 0.2), "low follows the step: say which one"),
        (lambda: loss(lambda step: 0.2, step=-1), "step must be a number of at least 0, got -1"),
        (lambda: loss(lambda step: 0.2, step="3"), "step must be a number of at least 0, got '3'"),
        (lambda: loss(thresholds.percentile(10), step=0), "low may follow the step only"),
        (lambda: loss(thresholds.relative(0.1), step=0), "low may follow the step only"),
        (lambda: loss(torch.full((2,), 0.2)), r"low must be a single number, got an array of shape \(2,\)"),
        (lambda: ratios.cispo(LOGP, OLD, WORTH, high=5, low=0.2, convention="trl"), "has no lower bound"),
        (lambda: ratios.cispo(LOGP, OLD, WORTH, high=5, convention="verl"), "convention must be 'paper' or"),
        (lambda: ratios.value_clip(LOGP, OLD, WORTH, convention="sb3"), "convention must be 'max' or"),
    ],
)
def test_other_arguments(call, words):
    with pytest.raises(ArgumentError, match=words):
        call()
