"""Corrections for samples that a separate rollout engine drew: importance weights, and tokens to leave out.

The rollout engine and the trainer assign different probabilities to the same token (kernels, precision, a
policy that is some steps old). `rollout_weights` and `rejected` compare the log-probabilities that both
compute for the policy that sampled the actions.
"""

from typing import Literal, NamedTuple, TypeAlias, get_args

from clipwise.checks import check_number
from clipwise.errors import ArgumentError, ThresholdError
from clipwise.functional.inputs import shape_of, written
from clipwise.functional.ratios._aggregate import masked_mean
from clipwise.functional.ratios._inputs import (
    BOUND,
    check_bound,
    clamp,
    counted,
    expect,
    like,
    mean_by_sequence,
    policies,
    wide,
)
from clipwise.namespace import Array, Namespace, stop_gradient

Criterion: TypeAlias = Literal[
    "token_k1",
    "token_k2",
    "token_k3",
    "seq_sum_k1",
    "seq_sum_k2",
    "seq_sum_k3",
    "seq_mean_k1",
    "seq_mean_k2",
    "seq_mean_k3",
    "seq_max_k2",
    "seq_max_k3",
]
"""What `rejected` looks at: verl's names."""


class RolloutWeights(NamedTuple):
    """Importance weights, without gradients.

    Attributes:
        weights: one per token, of the shape of the log-probabilities; 0 where masked.
        kept: which tokens are unmasked and have a weight above 0.
        outside: share of the tokens (or sequences) whose ratio was outside of the range, 0-d.
        mean: mean of the ratios before truncation or masking, 0-d.
    """

    weights: Array
    kept: Array
    outside: Array
    mean: Array


def rollout_weights(
    old_logp: Array,
    rollout_logp: Array,
    *,
    per: Literal["token", "sequence"] = "sequence",
    action: Literal["truncate", "mask"] = "mask",
    low: float = 0.0,
    high: float = 3.0,
    mask: Array | None = None,
    bound: float = BOUND,
) -> RolloutWeights:
    """Truncated or masked importance weights ``w = exp(old_logp - rollout_logp)``, for `ppo_clip` and others.

    ::

        truncate   min(max(w, low), high)             TIS
        mask       w if within [low, high], else 0    MIS, IcePop

    With ``per="sequence"``, w is the product over the tokens of a sequence and applies to each of them. The
    defaults are TRL's (``vllm_importance_sampling_mode="sequence_mask"``); verl truncates per token at 2.

    With ``ppo_clip(..., weights=found.weights)`` the term of a rejected token is 0 and stays in the
    denominator, as in TRL. With ``ppo_clip(..., weights=found.weights, mask=found.kept)`` it is removed from
    the denominator too.

    Args:
        old_logp: log-probabilities, computed by the trainer, of the actions under the policy that sampled
            them.
        rollout_logp: the same, computed by the rollout engine; of the same shape.
        per: ``"token"`` or ``"sequence"``, along the last axis.
        action: ``"truncate"`` or ``"mask"``: what happens outside of the range.
        low, high: the range; at least 0, ``low`` below ``high``.
        mask: of the same shape. Entries that are False or 0 are ignored and may hold anything, also NaN.
        bound: the log-ratio (per sequence: its sum) is clamped to [-bound, bound] before the exponential.

    Returns:
        A `RolloutWeights`.

    Raises:
        ArgumentError: a shape does not fit, or ``per`` or ``action`` is unknown.
        ThresholdError: low is below 0 or not below high.

    Source: Yao et al. 2025, "Your efficient RL framework secretly brings you off-policy RL training" (TIS);
    IcePop, arXiv:2510.18855; TRL's GRPOConfig; verl's rollout correction.

    >>> import numpy as np
    >>> old, rollout = np.log([[0.4, 0.4], [0.9, 0.9]]), np.log([[0.4, 0.2], [0.3, 0.3]])
    >>> np.round(rollout_weights(old, rollout).weights, 12).tolist()
    [[2.0, 2.0], [0.0, 0.0]]
    """
    if per not in ("token", "sequence"):
        raise ArgumentError(f"per must be 'token' or 'sequence', got {per!r}")
    if action not in ("truncate", "mask"):
        raise ArgumentError(f"action must be 'truncate' or 'mask', got {action!r}")
    least, most = check_number("low", low), check_number("high", high)
    if not least < most:
        raise ThresholdError(f"low must be below high, got {low!r} and {high!r}")
    bound = check_bound(bound)
    xp, moved, counts = _moved(old_logp, rollout_logp, mask)
    some = counts
    if per == "sequence":
        moved, some = xp.sum(moved, axis=-1, keepdims=True), xp.any(counts, axis=-1, keepdims=True)
    ratio = xp.exp(clamp(xp, moved, xp.asarray(-bound), xp.asarray(bound)))
    outside = (ratio < least) | (ratio > most)
    if action == "truncate":
        weight = clamp(xp, ratio, xp.asarray(least), xp.asarray(most))
    else:
        weight = xp.where(outside, xp.zeros(()), ratio)
    weights = xp.where(counts, weight, xp.zeros(()))
    share = masked_mean(xp, xp.astype(outside, xp.float_dtype), some)
    return RolloutWeights(weights, weights > 0, share, masked_mean(xp, ratio, some))


def rejected(
    old_logp: Array,
    rollout_logp: Array,
    criterion: Criterion,
    *,
    high: float,
    low: float | None = None,
    mask: Array | None = None,
    bound: float = BOUND,
) -> Array:
    """Rejection sampling: the unmasked tokens that should be left out, as booleans.

    ::

        k1   the ratio w = exp(old_logp - rollout_logp) outside of [low, high]
        k2   .5 (log w)^2 above high
        k3   w - 1 - log w above high

    The criterion applies per token, or to whole sequences by the sum, mean or maximum over their tokens (for
    k1, sum and mean are taken of log w). ``mask=mask & ~rejected(...)`` removes the tokens from numerator and
    denominator, as verl does.

    Args:
        old_logp, rollout_logp, mask: as for `rollout_weights`.
        criterion: verl's name of the criterion.
        high: upper bound, above 0.
        low: lower bound, for k1 only; 1 / high by default.
        bound: the log-ratio (for k1 its sum) is clamped to [-bound, bound] before the exponential.

    Returns:
        A boolean array of the shape of ``old_logp``.

    Raises:
        ArgumentError: a shape does not fit, the criterion is unknown, or ``low`` is given for another
            criterion than k1.
        ThresholdError: high is not above 0, or low is below 0 or not below high.

    Source: verl's ``rollout_rs`` and ``rollout_rs_threshold``; k1, k2, k3: Schulman 2020,
    joschu.net/blog/kl-approx.html.

    >>> import numpy as np
    >>> old, rollout = np.log([[0.4, 0.4], [0.9, 0.9]]), np.log([[0.4, 0.2], [0.3, 0.3]])
    >>> rejected(old, rollout, "seq_mean_k1", high=2.0).tolist()
    [[False, False], [True, True]]
    """
    if criterion not in get_args(Criterion):
        raise ArgumentError(f"criterion must be one of {', '.join(get_args(Criterion))}, got {criterion!r}")
    level, _, kind = criterion.rpartition("_")
    most = check_number("high", high)
    if not most > 0:
        raise ThresholdError(f"high must be above 0, got {high!r}")
    if low is not None and kind != "k1":
        raise ArgumentError(f"low belongs to k1, and {criterion!r} has an upper bound only")
    least = 1.0 / most if low is None else check_number("low", low)
    if kind == "k1" and not least < most:
        raise ThresholdError(f"low must be below high, got {least:g} and {most:g}")
    bound = check_bound(bound)
    xp, moved, counts = _moved(old_logp, rollout_logp, mask)
    ends = xp.asarray(-bound), xp.asarray(bound)
    if kind != "k1":
        moved = clamp(xp, moved, *ends)
        moved = 0.5 * moved * moved if kind == "k2" else xp.expm1(moved) - moved
    if level == "seq_sum":
        moved = xp.sum(moved, axis=-1, keepdims=True)
    elif level == "seq_mean":
        moved, _ = mean_by_sequence(xp, moved, counts)
    elif level == "seq_max":
        moved = xp.max(moved, axis=-1, keepdims=True)
    if kind == "k1":
        ratio = xp.exp(clamp(xp, moved, *ends))
        return counts & ((ratio < least) | (ratio > most))
    return counts & (moved > most)


def off_policy(
    logp: Array, old_logp: Array, advantages: Array, delta: float = 0.5, *, mask: Array | None = None
) -> Array:
    """Off-policy sequence masking: tokens of sequences with A < 0 that the policy has moved far away from.

    ::

        A < 0  and  mean over the sequence of (old_logp - logp) > delta

    A bad sample that the current policy would hardly draw any more carries little information.
    ``ppo_clip(..., weights=~found)`` sets the terms of these tokens to 0 and keeps them in the denominator,
    as TRL does; ``mask=mask & ~found`` removes them from it.

    Args:
        logp: log-probabilities under the current policy; nothing is differentiated here.
        old_logp: log-probabilities under the policy that sampled the actions, ideally as computed by the
            rollout engine.
        advantages: of the same shape, or one per sequence.
        delta: at least 0, in nats per token.
        mask: of the shape of ``logp``. Entries that are False or 0 are ignored and may hold anything, also
            NaN.

    Returns:
        A boolean array of the shape of ``logp``.

    Raises:
        ArgumentError: a shape does not fit.
        ThresholdError: delta is below 0.

    Source: DeepSeek-V3.2, arXiv:2512.02556, section 3.1 (off-policy sequence masking, without a value for
    delta); TRL's ``GRPOConfig(off_policy_mask_threshold=...)``, whose documentation starts with 0.5.

    >>> import numpy as np
    >>> logp, old = np.log([[0.1, 0.1], [0.1, 0.1]]), np.log([[0.3, 0.3], [0.3, 0.3]])
    >>> off_policy(logp, old, np.asarray([1.0, -1.0])).tolist()
    [[False, False], [True, True]]
    """
    limit = check_number("delta", delta)
    given = policies(logp, old_logp, advantages, mask)
    far, _ = mean_by_sequence(given.xp, -stop_gradient(given.log_ratio), given.counted)
    return given.counted & (given.advantages < 0) & (far > limit)


def _moved(old_logp: Array, rollout_logp: Array, mask: Array | None) -> tuple[Namespace, Array, Array]:
    """The log-ratio, 0 where the mask leaves out, and what counts; nothing of it is differentiated."""
    xp, old_logp = wide("old_logp", old_logp)
    shape = shape_of("old_logp", old_logp)
    if not shape or 0 in shape:
        raise ArgumentError(f"old_logp must hold tokens along its last axis, its shape is {written(shape)}")
    rollout_logp = stop_gradient(like(xp, "rollout_logp", rollout_logp))
    expect("rollout_logp", rollout_logp, shape)
    kept = counted(xp, old_logp, mask)
    nothing = xp.zeros(())
    moved = xp.where(kept, stop_gradient(old_logp), nothing) - xp.where(kept, rollout_logp, nothing)
    return xp, moved, kept
