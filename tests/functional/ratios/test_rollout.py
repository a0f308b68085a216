"""Weights for samples of another engine, what is left out, and the losses that came after PPO's clip."""

import math

import numpy as np
import pytest
import torch

from clipwise.errors import ArgumentError, ThresholdError
from clipwise.functional import ratios
from tests.functional.ratios import cases, frameworks, oracles

KINDS = tuple(frameworks.MAKE)
LOGP, OLD, WORTH, BY_SEQUENCE, MASK = cases.batch(51)
NOISE = np.random.default_rng(5).uniform(size=LOGP.shape)
EMPTY = MASK.copy()
EMPTY[2] = False
"""A mask in which one sequence has no token."""
LOSSES = {
    "sapo": (
        lambda x, m: ratios.sapo(x, OLD, WORTH, mask=m, tau_negative=1.5),
        lambda m: oracles.sapo(*map(oracles.rows, (LOGP, OLD, WORTH)), m, 1.0, 1.5),
    ),
    "gmpo": (
        lambda x, m: ratios.gmpo(x, OLD, WORTH, mask=m, low=0.2, high=0.3),
        lambda m: oracles.gmpo(*map(oracles.rows, (LOGP, OLD, WORTH)), m, 0.2, 0.3),
    ),
    "clip_cov": (
        lambda x, m: ratios.clip_cov(x, OLD, WORTH, NOISE, mask=m, share=0.1, between=(0.2, 2.0)),
        lambda m: oracles.clip_cov(
            *map(oracles.rows, (LOGP, OLD, WORTH, NOISE)), m, 0.1, (0.2, 2.0), 0.2, 0.2
        )[0],
    ),
    "gspo_token": (
        lambda x, m: ratios.gspo_token(x, OLD, BY_SEQUENCE, mask=m, low=0.1, high=0.1),
        lambda m: oracles.gspo(LOGP, OLD, BY_SEQUENCE, m, 0.1, 0.1),
    ),
    "luspo": (
        lambda x, m: ratios.luspo(x, OLD, BY_SEQUENCE, mask=m, low=0.1, high=0.1),
        lambda m: oracles.gspo(LOGP, OLD, BY_SEQUENCE * m.sum(1), m, 0.1, 0.1),
    ),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", LOSSES)
def test_losses(kind, name):
    mine, wanted = LOSSES[name]
    for mask in (MASK, EMPTY):
        found = frameworks.value(kind, lambda x, mask=mask: mine(x, mask), LOGP)
        np.testing.assert_allclose(found.loss, wanted(mask), rtol=1e-12)


@pytest.mark.parametrize("kind", frameworks.DIFFERENTIABLE)
@pytest.mark.parametrize("name", ["sapo", "gmpo", "clip_cov", "luspo"])
def test_gradients_by_finite_differences(kind, name):
    mine, _ = LOSSES[name]
    found = frameworks.gradient(kind, lambda x: mine(x, EMPTY).loss, LOGP)
    wanted = frameworks.differences(lambda x: mine(x, EMPTY).loss, LOGP)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-8)
    assert np.count_nonzero(found[EMPTY])
    assert not found[~EMPTY].any()


def test_clip_cov_chooses_some_of_several():
    _, chosen, eligible = oracles.clip_cov(
        *map(oracles.rows, (LOGP, OLD, WORTH, NOISE)), MASK, 0.1, (0.2, 2.0), 0.2, 0.2
    )
    assert 1 < chosen < eligible


@pytest.mark.parametrize("kind", frameworks.DIFFERENTIABLE)
def test_gspo_token_moves_each_token_by_its_own_advantage(kind):
    """With one advantage a sequence the gradient is GSPO's; with one a token it is s A of that token."""
    near = OLD + 0.05 * (LOGP - OLD)

    def gradient(loss):
        return frameworks.gradient(kind, lambda x: loss(x).loss, near)

    wide = {"low": 1.0, "high": 9.0, "mask": MASK}
    mine = gradient(lambda x: ratios.gspo_token(x, OLD, BY_SEQUENCE, **wide))
    np.testing.assert_allclose(mine, gradient(lambda x: ratios.gspo(x, OLD, BY_SEQUENCE, **wide)), rtol=1e-12)
    lengths = MASK.sum(1, keepdims=True)
    values = np.asarray(oracles.sequence_ratios(near, OLD, MASK))[:, None]
    wanted = -values * WORTH * MASK / lengths / len(WORTH)
    found = gradient(lambda x: ratios.gspo_token(x, OLD, WORTH, **wide))
    np.testing.assert_allclose(found, wanted, rtol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("per", ["token", "sequence"])
@pytest.mark.parametrize("action", ["truncate", "mask"])
def test_weights(kind, per, action):
    hidden = np.where(EMPTY, OLD, np.nan)
    settings = {"per": per, "action": action, "low": 0.7, "high": 1.5}
    found = frameworks.value(kind, lambda x: ratios.rollout_weights(x, hidden, mask=EMPTY, **settings), LOGP)
    wanted = np.asarray(oracles.rollout(LOGP, OLD, EMPTY, per, action, 0.7, 1.5))
    np.testing.assert_allclose(found.weights, wanted, rtol=1e-12)
    np.testing.assert_array_equal(found.kept, wanted > 0)
    every = np.asarray(oracles.rollout(LOGP, OLD, EMPTY, per, "truncate", 0.0, math.inf))
    seen = every[EMPTY] if per == "token" else every[EMPTY.any(1)].max(1)
    np.testing.assert_allclose(found.mean, seen.mean(), rtol=1e-12)
    np.testing.assert_allclose(found.outside, ((seen < 0.7) | (seen > 1.5)).mean(), rtol=1e-12)
    assert 0 < float(found.outside) < 1


@pytest.mark.parametrize("name", ["ppo_clip", "grpo", "gspo", "cispo", "sapo"])
def test_weights_multiply_the_terms_of_a_loss(name):
    """By hand: with the loss of each token alone; rejected tokens stay in the denominator, or leave it."""
    options = {"high": 0.2} if name == "cispo" else {}
    worth = BY_SEQUENCE if name == "gspo" else WORTH

    def loss(weights, mask):
        return float(getattr(ratios, name)(LOGP, OLD, worth, weights=weights, mask=mask, **options).loss)

    weights = np.where(MASK, np.exp(0.3 * NOISE) * (NOISE > 0.3), np.nan)
    parts = 0.0
    for place in zip(*np.nonzero(MASK), strict=True):
        alone = np.zeros(LOGP.shape)
        alone[place] = weights[place]
        parts += loss(alone, MASK)
    np.testing.assert_allclose(loss(weights, MASK), parts, rtol=1e-12)
    assert loss(np.where(MASK, 1.0, 0.0), MASK) == loss(None, MASK)
    assert loss(np.zeros(len(MASK)), MASK) == 0.0
    if name != "gspo":  # whose ratio is of what counts
        kept = MASK & (NOISE > 0.3)
        np.testing.assert_allclose(loss(NOISE > 0.3, kept), loss(None, kept), rtol=1e-12)
        assert loss(NOISE > 0.3, MASK) != pytest.approx(loss(None, kept))


@pytest.mark.parametrize("criterion", ratios.Criterion.__args__)
def test_rejection(criterion):
    low, high = {"token": (0.7, 1.4), "seq_mean": (0.8, 1.2)}.get(criterion[:-3], (0.3, 2.5))
    if not criterion.endswith("k1"):
        low, high = None, {"seq_sum": 1.0, "seq_max": 0.4}.get(criterion[:-3], 0.08)
    wanted = np.asarray(oracles.rejected(LOGP, OLD, EMPTY, criterion, low, high))
    for kind in KINDS:
        found = frameworks.value(
            kind, lambda x: ratios.rejected(x, OLD, criterion, low=low, high=high, mask=EMPTY), LOGP
        )
        np.testing.assert_array_equal(found, wanted)
    assert 0 < wanted.sum() < EMPTY.sum()


def test_one_bound_of_a_ratio_is_the_reciprocal_of_the_other():
    both = ratios.rejected(LOGP, OLD, "token_k1", low=0.8, high=1.25)
    np.testing.assert_array_equal(ratios.rejected(LOGP, OLD, "token_k1", high=1.25), both)


@pytest.mark.parametrize("kind", KINDS)
def test_samples_from_which_the_policy_has_moved_away(kind):
    far = np.asarray([(OLD - LOGP)[i][MASK[i]].mean() > 0.05 for i in range(len(MASK))])
    wanted = MASK & (far & (BY_SEQUENCE < 0))[:, None]
    found = frameworks.value(kind, lambda x: ratios.off_policy(x, OLD, BY_SEQUENCE, 0.05, mask=MASK), LOGP)
    np.testing.assert_array_equal(found, wanted)
    assert wanted.any()


def test_trl_with_importance_sampling_at_its_defaults():
    """``sequence_mask`` at 3, written from TRL's documentation: the ratio of the sequence times each term."""
    drawn = OLD + np.random.default_rng(6).normal(0.0, 0.4, OLD.shape)
    drawn[0] -= 0.5
    logp = torch.tensor(LOGP, requires_grad=True)
    old, rollout, mask = torch.tensor(OLD), torch.tensor(drawn), torch.tensor(MASK)
    m, worth = mask.double(), torch.tensor(BY_SEQUENCE)[:, None]
    ratio = (logp - old).exp()
    terms = -torch.minimum(ratio * worth, ratio.clip(0.8, 1.2) * worth)
    of_sequence = ((old - rollout) * m).sum(1, keepdim=True).exp()
    terms = terms * of_sequence.masked_fill(of_sequence > 3.0, 0.0)
    wanted = ((terms * m).sum(1) / m.sum(1)).mean()
    assert (of_sequence > 3.0).any()

    found = ratios.rollout_weights(old, rollout, mask=mask)
    loss = ratios.grpo(logp, old, BY_SEQUENCE, mask=mask, weights=found.weights).loss
    torch.testing.assert_close(loss, wanted, rtol=1e-12, atol=0)
    (mine,), (theirs,) = torch.autograd.grad(loss, logp), torch.autograd.grad(wanted, logp)
    torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (lambda: ratios.rollout_weights(LOGP, OLD, per="word"), ArgumentError, "'token' or 'sequence'"),
        (lambda: ratios.rollout_weights(LOGP, OLD, action="drop"), ArgumentError, "'truncate' or 'mask'"),
        (lambda: ratios.rollout_weights(LOGP, OLD, low=3.0), ThresholdError, "low must be below high"),
        (lambda: ratios.rollout_weights(LOGP, OLD[:2]), ArgumentError, "rollout_logp must have the shape"),
        (lambda: ratios.rejected(LOGP, OLD, "seq_k1", high=1.0), ArgumentError, "one of token_k1"),
        (lambda: ratios.rejected(LOGP, OLD, "token_k2", low=0.1, high=1), ArgumentError, "low belongs to k1"),
        (lambda: ratios.rejected(LOGP, OLD, "token_k1", high=0.9), ThresholdError, "1.11111 and 0.9"),
        (lambda: ratios.off_policy(LOGP, OLD, WORTH, -1.0), ThresholdError, "delta"),
        (
            lambda: ratios.sapo(LOGP, OLD, WORTH, tau_positive=0.0),
            ThresholdError,
            "tau_positive must be above",
        ),
        (lambda: ratios.gmpo(LOGP, OLD, WORTH, low=-0.1), ThresholdError, "low"),
        (lambda: ratios.clip_cov(LOGP, OLD, WORTH, NOISE[0]), ArgumentError, "noise must have the shape"),
        (lambda: ratios.clip_cov(LOGP, OLD, WORTH, NOISE, share=0.0), ThresholdError, "share must be within"),
        (lambda: ratios.clip_cov(LOGP, OLD, WORTH, NOISE, between=(2, 1)), ArgumentError, "ascending"),
        (lambda: ratios.ppo_clip(LOGP, OLD, WORTH, weights=NOISE[0]), ArgumentError, "weights must have"),
    ],
)
def test_bad_input(call, error, said):
    with pytest.raises(error, match=said):
        call()
