"""Clip-Cov: PPO's clip, with no gradient for a few tokens that would reduce the entropy most."""

import math

from clipwise.checks import check_number
from clipwise.errors import ArgumentError, ThresholdError
from clipwise.functional.inputs import shape_of
from clipwise.functional.ratios._aggregate import Aggregate, check_aggregate, masked_mean, total
from clipwise.functional.ratios._epsilon import Epsilon, epsilon_at
from clipwise.functional.ratios._figures import RatioLoss, figures_of
from clipwise.functional.ratios._inputs import BOUND, check_bound, clamp, expect, like, policies
from clipwise.namespace import Array, Namespace, stop_gradient


def clip_cov(
    logp: Array,
    old_logp: Array,
    advantages: Array,
    noise: Array,
    *,
    share: float = 2e-4,
    between: tuple[float, float] = (1.0, 5.0),
    low: Epsilon = 0.2,
    high: Epsilon | None = None,
    mask: Array | None = None,
    weights: Array | None = None,
    aggregate: Aggregate = "token_mean",
    length: float | None = None,
    step: Array | None = None,
    bound: float = BOUND,
) -> RatioLoss:
    """Clip-Cov's loss: `ppo_clip` with the terms of a few randomly chosen high-covariance tokens set to 0.

    ::

        cov_t = (A_t - mean(A)) (logp_t - mean(logp)),    means over the unmasked tokens

    Candidates are the tokens whose cov lies strictly inside ``between`` and that the clip did not change. Of
    these, ``max(1, floor(share n))`` are chosen at random, with n the number of unmasked tokens. Their terms
    are 0 and stay in the denominator.

    Args:
        logp, old_logp, advantages, low, high, mask, weights, length, step, bound: as for `ppo_clip`.
        noise: random numbers of the shape of ``logp``, uniform in [0, 1), new in each step. The candidates
            with the smallest numbers are chosen, so that the choice is reproducible and the same in every
            framework.
        share: share of the tokens, in (0, 1].
        between: range of covariances, ascending.
        aggregate: see `clipwise.functional.ratios.aggregate`.

    Returns:
        A `RatioLoss`: the loss, 0-d, and its figures.

    Raises:
        ArgumentError: a shape or an argument does not fit.
        ThresholdError: share is outside of (0, 1], low is outside of [0, 1], or high is below 0.

    Source: "The Entropy Mechanism of Reinforcement Learning for Reasoning Language Models",
    arXiv:2505.22617; verl's ``loss_mode="clip_cov"``: 2e-4, 1 and 5.

    >>> import numpy as np
    >>> logp = np.log([[0.9, 0.1, 0.1, 0.1]])
    >>> worth, noise = np.asarray([[3.0, 0.0, 0.0, 0.0]]), np.asarray([[0.2, 0.1, 0.5, 0.7]])
    >>> abs(float(clip_cov(logp, logp, worth, noise).loss))
    0.0
    """
    if not check_number("share", share, high=1.0) > 0:
        raise ThresholdError(f"share must be within (0, 1], got {share!r}")
    least, most = (check_number(f"between[{i}]", end, low=-math.inf) for i, end in enumerate(between))
    if not least < most:
        raise ArgumentError(f"between must be ascending, got {between!r}")
    bound = check_bound(bound)
    given = policies(logp, old_logp, advantages, mask, weights)
    check_aggregate(aggregate, length, len(given.logp.shape))
    xp, worth, kept = given.xp, given.advantages, given.counted
    expect("noise", noise, shape_of("logp", given.logp))
    noise = stop_gradient(like(xp, "noise", noise))
    below = epsilon_at(xp, "low", low, step, high=1.0)
    bottom, top = 1.0 - below, 1.0 + (below if high is None else epsilon_at(xp, "high", high, step))

    ratio = xp.exp(clamp(xp, given.log_ratio, xp.asarray(-bound), xp.asarray(bound)))
    free, clipped = ratio * worth, clamp(xp, ratio, bottom, top) * worth
    term = xp.where(clipped < free, clipped, free)
    binding = (ratio < bottom) & (worth < 0), (ratio > top) & (worth > 0)
    here = stop_gradient(given.logp)
    cov = (worth - masked_mean(xp, worth, kept)) * (here - masked_mean(xp, here, kept))
    eligible = kept & (cov > least) & (cov < most) & ~(binding[0] | binding[1])
    term = xp.where(_smallest(xp, noise, eligible, kept, share), xp.zeros(()), term)
    loss = total(xp, given.weighed(-term), kept, aggregate, length)
    return RatioLoss(loss, figures_of(given, ratio, kept, (bottom, top), binding, None, bound))


def _smallest(xp: Namespace, noise: Array, eligible: Array, kept: Array, share: float) -> Array:
    """The eligible entries with the smallest noise: so many as are asked for, or all that there are."""
    order = xp.sort(xp.reshape(xp.where(eligible, noise, xp.full((), xp.inf)), (-1,)))
    count = xp.floor(share * xp.sum(xp.astype(kept, xp.float_dtype)))
    last = xp.astype(xp.maximum(count, xp.full((), 1.0)) - 1.0, xp.int32)
    return eligible & (noise <= xp.take(order, last, axis=0))
