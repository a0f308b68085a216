"""CISPO: the ratio is clipped as a weight, and every token keeps its gradient."""

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
    """CISPO's loss: ``-mean(stop_gradient(w) A logp)``, w the clipped ratio ``r = exp(logp - old_logp)``.

    ::

        paper   w = clip(r, 1 - low, 1 + high)
        trl     w = min(r, high)                the bound itself, not its distance from 1

    so ``high=4`` is the paper's way to say what ``high=5`` is in TRL's.

    Args:
        logp: log-probabilities of the taken actions under the policy that learns; only it is differentiated.
        old_logp: the same under the policy that acted.
        advantages: of the same shape, or one a sequence: ``logp.shape[:-1]``.
        high: see above; at least 0. The paper gives no number: it has none as a default here.
        low: within [0, 1]; None for no lower bound, as in the paper's experiments and in TRL.
        convention: whose ``high`` it is.
        mask: of the shape of ``logp``; what is False or 0 does not count and may hold anything, NaN too.
        weights: as for `ppo_clip`.
        aggregate: see `clipwise.functional.ratios.aggregate`.
        length: for ``aggregate="constant"``.
        step: for an epsilon that follows it.
        bound: the log-ratio is brought into [-bound, bound] before the exponential. No gradient is lost.

    Raises:
        ArgumentError: a shape or an argument that does not fit, ``low`` with TRL's convention.
        ThresholdError: low outside [0, 1], high below 0.

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
