"""CISPO: the clipped ratio is a constant weight, and every token keeps its gradient."""

from typing import Literal

from clipwise.errors import ArgumentError
from clipwise.functional.ratios._aggregate import Aggregate, check_aggregate, total
from clipwise.functional.ratios._epsilon import Epsilon, epsilon_at
from clipwise.functional.ratios._figures import RatioLoss, figures_of
from clipwise.functional.ratios._inputs import BOUND, check_bound, clamp, policies
from clipwise.namespace import Array, stop_gradient


def cispo(
    logp: Array,
    old_logp: Array,
    advantages: Array,
    *,
    high: Epsilon,
    low: Epsilon | None = None,
    convention: Literal["paper", "trl"] = "paper",
    mask: Array | None = None,
    weights: Array | None = None,
    aggregate: Aggregate = "token_mean",
    length: float | None = None,
    step: Array | None = None,
    bound: float = BOUND,
) -> RatioLoss:
    """CISPO's loss: ``-mean(stop_gradient(w) A logp)`` with w the clipped ratio ``r = exp(logp - old_logp)``.

    ::

        paper   w = clip(r, 1 - low, 1 + high)
        trl     w = min(r, high)                high is the bound itself

    ``high=4`` in the paper's convention is ``high=5`` in TRL's.

    Args:
        logp: log-probabilities of the actions under the current policy. Only they are differentiated.
        old_logp: log-probabilities of the actions under the policy that sampled them.
        advantages: of the same shape, or one per sequence: ``logp.shape[:-1]``.
        high: see above; at least 0. It has no default, since the paper gives none.
        low: in [0, 1]; None for no lower bound, as in the paper's experiments and in TRL.
        convention: ``"paper"`` or ``"trl"``: the meaning of ``high``.
        mask: of the shape of ``logp``. Entries that are False or 0 are ignored and may hold anything, also
            NaN.
        weights: as for `ppo_clip`.
        aggregate: see `clipwise.functional.ratios.aggregate`.
        length: for ``aggregate="constant"``.
        step: step number, for bounds that depend on it.
        bound: the log-ratio is clamped to [-bound, bound] before the exponential. This removes no gradient.

    Returns:
        A `RatioLoss`: the loss, 0-d, and its figures.

    Raises:
        ArgumentError: a shape or an argument does not fit, or ``low`` is given with TRL's convention.
        ThresholdError: low is outside of [0, 1], or high is below 0.

    Source: MiniMax-M1, arXiv:2506.13585, equations 4 and 5; TRL's ``GRPOConfig(loss_type="cispo")``.

    >>> import numpy as np
    >>> logp, old = np.log([0.5, 0.2]), np.log([0.1, 0.2])
    >>> loss, figures = cispo(logp, old, np.asarray([1.0, 1.0]), high=1.0)
    >>> round(float(loss), 6), float(figures.outside_high)
    (1.497866, 0.5)
    """
    if convention not in ("paper", "trl"):
        raise ArgumentError(f"convention must be 'paper' or 'trl', got {convention!r}")
    if convention == "trl" and low is not None:
        raise ArgumentError(f"TRL's convention has no lower bound, got low={low!r}")
    bound = check_bound(bound)
    given = policies(logp, old_logp, advantages, mask, weights)
    check_aggregate(aggregate, length, len(given.logp.shape))
    xp = given.xp
    bottom = xp.zeros(()) if low is None else 1.0 - epsilon_at(xp, "low", low, step, high=1.0)
    top = epsilon_at(xp, "high", high, step)
    top = top if convention == "trl" else 1.0 + top

    log_ratio = clamp(xp, stop_gradient(given.log_ratio), xp.asarray(-bound), xp.asarray(bound))
    ratio = xp.exp(log_ratio)
    weight = clamp(xp, ratio, bottom, top)
    terms = given.weighed(-(weight * given.advantages * given.logp))
    loss = total(xp, terms, given.counted, aggregate, length)
    moves = given.advantages != 0
    binding = (ratio < bottom) & moves, (ratio > top) & moves
    return RatioLoss(loss, figures_of(given, ratio, given.counted, (bottom, top), binding, None, bound))
