"""Widths, masks, arrays of another framework, and shapes that do not fit."""

import jax.numpy as jnp
import numpy as np
import pytest
import tensorflow as tf
import torch

from clipwise.errors import ArgumentError
from clipwise.functional import ratios
from tests.functional.ratios import cases

LOGP, OLD, WORTH, BY_SEQUENCE, MASK = cases.batch(41)
HALVES = {
    "float16": lambda x: np.asarray(x, np.float16),
    "torch": lambda x: torch.tensor(x, dtype=torch.bfloat16),
    "jax": lambda x: jnp.asarray(x, jnp.bfloat16),
    "tensorflow": lambda x: tf.cast(tf.constant(x), tf.bfloat16),
}


@pytest.mark.parametrize("kind", HALVES)
def test_halves_are_computed_in_float32(kind):
    """e^20 is beyond float16, and 1.0003 is 1 in bfloat16."""
    loss, figures = ratios.ppo_clip(HALVES[kind]([12.0]), HALVES[kind]([0.0]), HALVES[kind]([-1.0]))
    assert "float32" in str(loss.dtype)
    assert float(loss) == pytest.approx(np.exp(12.0), rel=1e-6)
    assert float(figures.ratio_max) == pytest.approx(np.exp(12.0), rel=1e-6)
    values = HALVES[kind]([1.5])
    assert float(ratios.value_clip(values, HALVES[kind]([1.0]), HALVES[kind]([0.0])).loss) == 1.125


@pytest.mark.parametrize("kind", ["numpy", "torch", "jax", "tensorflow"])
def test_float32_stays(kind):
    make = {"numpy": np.asarray, "torch": torch.tensor, "jax": jnp.asarray, "tensorflow": tf.constant}[kind]
    loss, figures = ratios.grpo(make(LOGP.astype(np.float32)), OLD, BY_SEQUENCE, mask=MASK)
    assert {
        str(x.dtype).removeprefix("torch.").split("'")[1 if "<" in str(x.dtype) else 0]
        for x in (loss, *figures)
    } == {"float32"}
    assert float(loss) == pytest.approx(float(ratios.grpo(LOGP, OLD, BY_SEQUENCE, mask=MASK).loss), rel=1e-5)


@pytest.mark.parametrize("make", [np.asarray, torch.as_tensor, jnp.asarray, tf.convert_to_tensor])
@pytest.mark.parametrize("dtype", [bool, np.int64, np.float32])
def test_masks_of_every_kind(make, dtype):
    wanted = ratios.ppo_clip(LOGP, OLD, WORTH, mask=MASK).loss
    given = [make(x.astype(np.float32)) for x in (LOGP, OLD, WORTH)]
    found = ratios.ppo_clip(*given, mask=make(MASK.astype(dtype))).loss
    assert float(found) == pytest.approx(float(wanted), rel=1e-5)


def test_rewards_may_be_whole_numbers():
    assert float(ratios.ppo_clip(LOGP, LOGP, np.ones(LOGP.shape, np.int64)).loss) == pytest.approx(-1)


def test_nan_that_counts_is_not_hidden():
    logp = LOGP.copy()
    logp[0, 0] = np.nan
    assert np.isnan(ratios.ppo_clip(logp, OLD, WORTH).loss)


def test_sequences_of_one_token():
    """Where an entry a token and an entry a sequence have the same shape."""
    logp, old, worth = LOGP[:, :1], OLD[:, :1], BY_SEQUENCE[:, None]
    found = ratios.gspo(logp, old, worth, low=0.2, high=0.2).loss
    assert float(found) == pytest.approx(float(ratios.ppo_clip(logp, old, worth).loss), rel=1e-12)


def test_more_axes():
    """Sequences in groups: only the last axis is that of tokens."""
    shape = (2, 3, LOGP.shape[1])
    given = [x.reshape(shape) for x in (LOGP, OLD)]
    found = ratios.grpo(*given, BY_SEQUENCE.reshape(2, 3), mask=MASK.reshape(shape)).loss
    assert float(found) == pytest.approx(
        float(ratios.grpo(LOGP, OLD, BY_SEQUENCE, mask=MASK).loss), rel=1e-12
    )


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda: ratios.ppo_clip(LOGP, OLD[:2], WORTH),
            r"old_logp must have the shape \(6, 9\), got \(2, 9\)",
        ),
        (
            lambda: ratios.ppo_clip(LOGP, OLD, WORTH[:, :3]),
            r"advantages must have the shape of logp, \(6, 9\), or one .* sequence, \(6,\), got \(6, 3\)",
        ),
        (lambda: ratios.ppo_clip(LOGP, OLD, np.ones(9)), r"advantages must .* \(6,\), got \(9,\)"),
        (lambda: ratios.ppo_clip(LOGP[0], OLD[0], np.ones(1)), r"advantages must .* \(9,\), .* got \(1,\)"),
        (lambda: ratios.ppo_clip(LOGP, OLD, WORTH, mask=MASK[0]), r"mask must .* \(6, 9\), got \(9,\)"),
        (lambda: ratios.gspo(LOGP, OLD, WORTH), r"one advantage per sequence, of shape \(6,\), got \(6, 9\)"),
        (lambda: ratios.ppo_clip([0.1], OLD, WORTH), "logp must be an array of numpy, torch, .* got list"),
        (lambda: ratios.ppo_clip(LOGP, None, WORTH), "old_logp must be an array .* got NoneType"),
        (lambda: ratios.ppo_clip(LOGP, OLD, 1.0), "advantages must be an array .* got float"),
        (lambda: ratios.ppo_clip(LOGP, OLD, WORTH, mask=[1]), "mask must be an array .* got list"),
        (lambda: ratios.ppo_clip(MASK, OLD, WORTH), "logp must hold floats, got bool"),
        (lambda: ratios.ppo_clip(MASK.astype(int), OLD, WORTH), "logp must hold floats, got int64"),
        (lambda: ratios.ppo_clip(LOGP, OLD, MASK), "advantages must hold numbers, got bool"),
        (lambda: ratios.ppo_clip(LOGP, OLD, WORTH.astype(str)), "advantages must hold numbers, got <U"),
        (lambda: ratios.ppo_clip(LOGP[:0], OLD[:0], WORTH[:0]), r"no entries: its shape is \(0, 9\)"),
        (lambda: ratios.ppo_clip(LOGP[0, 0], OLD[0, 0], WORTH[0, 0]), "logp has no axis"),
        (
            lambda: ratios.ppo_clip(LOGP, OLD, WORTH, per="word"),
            "per must be 'token', 'sequence' or 'sequence_token'",
        ),
        (
            lambda: ratios.ppo_clip(LOGP, OLD, WORTH, aggregate="mean"),
            "token_mean, sequence_mean, constant, got",
        ),
        (
            lambda: ratios.grpo(LOGP[0], OLD[0], WORTH[0]),
            "needs sequences along the last of at least two axes",
        ),
        (lambda: ratios.ppo_clip(LOGP, OLD, WORTH, aggregate="constant"), "'constant' divides by a length"),
        (lambda: ratios.ppo_clip(LOGP, OLD, WORTH, length=3), "length= belongs to aggregate='constant'"),
        (lambda: ratios.dr_grpo(LOGP, OLD, WORTH, length=0), "length must be above 0, got 0"),
        (lambda: ratios.aggregate(LOGP[:, :0]), r"values has no entries: its shape is \(6, 0\)"),
        (
            lambda: ratios.value_clip(LOGP, OLD[0], WORTH),
            r"old_values must have the shape \(6, 9\), got \(9,\)",
        ),
        (lambda: ratios.value_clip(LOGP, OLD, WORTH[:, :1]), r"returns must .* \(6, 9\), got \(6, 1\)"),
        (lambda: ratios.value_clip(LOGP[:0], OLD[:0], WORTH[:0]), "values has no entries"),
    ],
)
def test_bad_input(call, words):
    with pytest.raises(ArgumentError, match=words):
        call()
