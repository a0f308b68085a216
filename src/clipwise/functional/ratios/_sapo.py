"""SAPO: a smooth gate instead of the clip."""

from clipwise.checks import check_number
from clipwise.errors import ThresholdError
from clipwise.functional.ratios._aggregate import Aggregate, check_aggregate, total
from clipwise.functional.ratios._figures import RatioLoss, figures_of
from clipwise.functional.ratios._inputs import BOUND, check_bound, clamp, policies
from clipwise.namespace import Array


def sapo(
    logp: Array,
    old_logp: Array,
    advantages: Array,
    *,
    tau_positive: float = 1.0,
    tau_negative: float = 1.05,
    mask: Array | None = None,
    weights: Array | None = None,
    aggregate: Aggregate = "sequence_mean",
    length: float | None = None,
    bound: float = BOUND,
) -> RatioLoss:
    """SAPO's loss: ``-mean((4 / tau) sigmoid(tau (r - 1)) A)``, ``r = exp(logp - old_logp)``.

    tau is ``tau_positive`` where A > 0, else ``tau_negative``. At r = 1 the derivative with respect to r is
    A, as in PPO; away from 1 it decreases smoothly on both sides.

    Args:
        logp, old_logp, advantages, mask, weights, length, bound: as for `ppo_clip`.
        tau_positive, tau_negative: temperatures, above 0; larger values make the gate narrower.
        aggregate: see `clipwise.functional.ratios.aggregate`.

    Returns:
        A `RatioLoss`: the loss, 0-d, and its figures. There is no clipping range, so the shares of terms
        outside and of binding clips are 0.

    Raises:
        ArgumentError: a shape or an argument does not fit.
        ThresholdError: a tau is not above 0.

    Source: "Soft Adaptive Policy Optimization", arXiv:2511.20347: 1 and 1.05; TRL's
    ``GRPOConfig(loss_type="sapo")``.

    >>> import numpy as np
    >>> logp = np.log([[0.5, 0.5]])
    >>> float(sapo(logp, logp, np.asarray([1.0])).loss)
    -2.0
    """
    taus = {"tau_positive": tau_positive, "tau_negative": tau_negative}
    for name, tau in taus.items():
        if not check_number(name, tau) > 0:
            raise ThresholdError(f"{name} must be above 0, got {tau!r}")
    bound = check_bound(bound)
    given = policies(logp, old_logp, advantages, mask, weights)
    check_aggregate(aggregate, length, len(given.logp.shape))
    xp, worth = given.xp, given.advantages
    log_ratio = clamp(xp, given.log_ratio, xp.asarray(-bound), xp.asarray(bound))
    tau = xp.where(worth > 0, xp.full((), float(tau_positive)), xp.full((), float(tau_negative)))
    # expm1: where the policies nearly agree, r - 1 would be mostly rounding.
    gate = 4.0 / tau * xp.sigmoid(tau * xp.expm1(log_ratio))
    loss = total(xp, given.weighed(-(gate * worth)), given.counted, aggregate, length)
    everywhere, nowhere = (xp.zeros(()), xp.full((), xp.inf)), worth != worth
    ratio = xp.exp(log_ratio)
    return RatioLoss(
        loss, figures_of(given, ratio, given.counted, everywhere, (nowhere, nowhere), None, bound)
    )
