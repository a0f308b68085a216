"""PPO's clip of the probability ratio, and the methods that differ from it in a parameter."""

import numbers
from typing import Literal

from clipwise.errors import ArgumentError, ThresholdError
from clipwise.functional.inputs import shape_of, written
from clipwise.functional.ratios._aggregate import Aggregate, check_aggregate, total
from clipwise.functional.ratios._epsilon import Epsilon, epsilon_at
from clipwise.functional.ratios._figures import RatioLoss, figures_of
from clipwise.functional.ratios._inputs import BOUND, Policies, check_bound, clamp, mean_by_sequence, policies
from clipwise.namespace import Array, stop_gradient


def ppo_clip(
    logp: Array,
    old_logp: Array,
    advantages: Array,
    *,
    low: Epsilon = 0.2,
    high: Epsilon | None = None,
    dual: float | Array | None = None,
    per: Literal["token", "sequence", "sequence_token"] = "token",
    mask: Array | None = None,
    weights: Array | None = None,
    aggregate: Aggregate = "token_mean",
    length: float | None = None,
    step: Array | None = None,
    bound: float = BOUND,
) -> RatioLoss:
    """PPO's loss: ``-mean(min(r A, clip(r, 1 - low, 1 + high) A))``, ``r = exp(logp - old_logp)``.

    With ``dual``, the term becomes ``max(term, dual * A)`` where A < 0. With ``per="sequence"``, r is
    ``exp(mean(logp - old_logp))``, with the mean over the unmasked tokens of a sequence, and applies to each
    of its tokens. With ``per="sequence_token"``, r has the same value, but its gradient is that of the
    token's own ``logp``.

    Only ``logp`` is differentiated. Tokens (or samples) lie along the last axis. The computation is in the
    dtype of ``logp``, and in float32 or wider.

    Args:
        logp: log-probabilities of the actions under the current policy; an array of numpy, torch, JAX or
            TensorFlow.
        old_logp: log-probabilities under the policy that sampled the actions. For on-policy learning pass
            ``logp`` again.
        advantages: of the same shape, or one per sequence: ``logp.shape[:-1]``, or that with a last axis of
            1. ``per="sequence"`` takes one per sequence.
        low: how far the ratio may fall below 1, in [0, 1]: a number, a 0-d array, a function of the step, or
            a schedule of `clipwise.thresholds`.
        high: how far the ratio may rise above 1, at least 0; by default the same as ``low``.
            ``low=1, high=math.inf`` clips nothing.
        dual: dual clip: a number or 0-d array above 1 that limits the effect of a large ratio where the
            advantage is negative. None for no dual clip.
        per: ``"token"``, ``"sequence"`` or ``"sequence_token"``, see above. With the last one, tokens of a
            sequence may have different advantages.
        mask: of the shape of ``logp``. Entries that are False or 0 are ignored and may hold anything, also
            NaN.
        weights: constants that multiply the terms after the clip, as `rollout_weights` returns them; shaped
            like the advantages. A term with weight 0 stays in the denominator.
        aggregate: see `clipwise.functional.ratios.aggregate`.
        length: for ``aggregate="constant"``.
        step: step number, for bounds that depend on it.
        bound: the log-ratio is clamped to [-bound, bound] before the exponential. Beyond that the gradient is
            0.

    Returns:
        A `RatioLoss`: the loss, 0-d, and its figures.

    Raises:
        ArgumentError: a shape or an argument does not fit.
        ThresholdError: low is outside of [0, 1], high is below 0, or dual is not above 1.

    Source: Schulman et al. 2017, arXiv:1707.06347, equation 7. Asymmetric range: DAPO, arXiv:2503.14476. Dual
    clip: Ye et al. 2020, arXiv:1912.09729. Ratio per sequence: GSPO, arXiv:2507.18071.

    >>> import numpy as np
    >>> loss, figures = ppo_clip(np.log([0.6, 0.1]), np.log([0.4, 0.1]), np.asarray([1.0, -1.0]))
    >>> round(float(loss), 12), float(figures.binding_high)
    (-0.1, 0.5)
    """
    if per not in ("token", "sequence", "sequence_token"):
        raise ArgumentError(f"per must be 'token', 'sequence' or 'sequence_token', got {per!r}")
    if isinstance(dual, numbers.Real) and not float(dual) > 1:
        raise ThresholdError(f"dual must be above 1, got {dual!r}")
    bound = check_bound(bound)
    given = policies(logp, old_logp, advantages, mask, weights)
    check_aggregate(aggregate, length, len(given.logp.shape))
    xp = given.xp
    below = epsilon_at(xp, "low", low, step, high=1.0)
    bottom, top = 1.0 - below, 1.0 + (below if high is None else epsilon_at(xp, "high", high, step))
    worst = None if dual is None else epsilon_at(xp, "dual", dual, None)

    log_ratio, worth, kept = _WAYS[per](given)
    ratio = xp.exp(clamp(xp, log_ratio, xp.asarray(-bound), xp.asarray(bound)))
    free, clipped = ratio * worth, clamp(xp, ratio, bottom, top) * worth
    # Chosen, not `minimum`: where both are the same, frameworks share the gradient out differently.
    term = xp.where(clipped < free, clipped, free)
    binding = (ratio < bottom) & (worth < 0), (ratio > top) & (worth > 0)
    held = None
    if worst is not None:
        held = (worth < 0) & (term < worst * worth)
        term = xp.where(held, worst * worth, term)
    # A sequence's term for each of its tokens.
    loss = total(xp, given.weighed(-term), given.counted, aggregate, length)
    return RatioLoss(loss, figures_of(given, ratio, kept, (bottom, top), binding, held, bound))


def _by_token(given: Policies) -> tuple[Array, Array, Array]:
    return given.log_ratio, given.advantages, given.counted


def _by_sequence(given: Policies) -> tuple[Array, Array, Array]:
    """The mean log-ratio, advantage and presence of each sequence, one entry along the last axis."""
    xp = given.xp
    if given.by_sequence is None:
        shape = shape_of("logp", given.logp)
        raise ArgumentError(
            "a ratio per sequence takes one advantage per sequence, of shape"
            f" {written(shape[:-1])}, got {written(shape_of('advantages', given.advantages))}"
        )
    mean, kept = mean_by_sequence(xp, given.log_ratio, given.counted)
    return mean, xp.where(kept, given.by_sequence, xp.zeros(())), kept


def _by_sequence_token(given: Policies) -> tuple[Array, Array, Array]:
    """The mean log-ratio of its sequence for each token, with the derivative of the token's own."""
    mean, _ = mean_by_sequence(given.xp, stop_gradient(given.log_ratio), given.counted)
    return mean + (given.logp - stop_gradient(given.logp)), given.advantages, given.counted


_WAYS = {"token": _by_token, "sequence": _by_sequence, "sequence_token": _by_sequence_token}
