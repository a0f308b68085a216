"""GMPO: the geometric mean of a sequence's ratios, each of which is clipped first."""

from clipwise.checks import check_number
from clipwise.functional.ratios._figures import RatioLoss, figures_of
from clipwise.functional.ratios._inputs import clamp, mean_by_sequence, policies
from clipwise.namespace import Array


def gmpo(
    logp: Array,
    old_logp: Array,
    advantages: Array,
    *,
    low: float = 0.4,
    high: float = 0.4,
    mask: Array | None = None,
    weights: Array | None = None,
) -> RatioLoss:
    """GMPO's loss: ``-mean_sequences(A exp(mean_tokens(l)))`` with l the clipped log-ratio.

    ::

        l = s min(s d, s clip(d, -low, high)),    d = logp - old_logp, s the sign of the token's advantage

    A single token changes a geometric mean less than GRPO's arithmetic mean, so the clip may be wider. A is
    the mean of the advantages of the sequence's tokens. A sequence without unmasked tokens counts as a term
    of 0.

    Args:
        logp, old_logp, advantages, mask: as for `ppo_clip`.
        low, high: bounds of the log-ratio, at least 0: the ratio stays in [exp(-low), exp(high)].
        weights: constants that multiply the term of each sequence: one per sequence, or one per token, of
            which the mean is taken.

    Returns:
        A `RatioLoss`: the loss, 0-d, and its figures.

    Raises:
        ArgumentError: a shape or an argument does not fit.
        ThresholdError: low or high is below 0.

    Source: "Geometric-Mean Policy Optimization", arXiv:2507.20673, equation 4: clip to (exp(-0.4), exp(0.4));
    verl's ``loss_mode="geo_mean"``.

    >>> import numpy as np
    >>> loss, figures = gmpo(np.log([[0.8, 0.1]]), np.log([[0.2, 0.1]]), np.asarray([1.0]))
    >>> round(float(-loss), 6), float(figures.binding_high)  # exp((0.4 + 0) / 2)
    (1.221403, 0.5)
    """
    bounds = [check_number(name, value) for name, value in (("low", low), ("high", high))]
    given = policies(logp, old_logp, advantages, mask, weights)
    xp, moved, worth = given.xp, given.log_ratio, given.advantages
    bottom, top = xp.asarray(-bounds[0]), xp.asarray(bounds[1])
    binding = (moved < bottom) & (worth < 0), (moved > top) & (worth > 0)
    inside = clamp(xp, moved, bottom, top)
    held = xp.where(worth > 0, xp.where(inside < moved, inside, moved), moved)
    held = xp.where(worth < 0, xp.where(inside > moved, inside, moved), held)
    mean, some = mean_by_sequence(xp, held, given.counted)
    value, _ = mean_by_sequence(xp, worth, given.counted)
    terms = -(value * xp.exp(mean))
    if given.weights is not None:
        terms = terms * mean_by_sequence(xp, given.weights, given.counted)[0]
    loss = xp.mean(xp.where(some, terms, xp.zeros(())))
    region = xp.exp(bottom), xp.exp(top)
    bound = 40.0  # of the figures only: what the loss does not clip it does not bound
    ratio = xp.exp(clamp(xp, moved, xp.asarray(-bound), xp.asarray(bound)))
    return RatioLoss(loss, figures_of(given, ratio, given.counted, region, binding, None, bound))
