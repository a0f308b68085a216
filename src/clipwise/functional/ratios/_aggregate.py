"""Aggregation of per-token terms into one loss, and the weight that each token gets."""

from typing import Literal, TypeAlias, get_args

from clipwise.checks import check_number
from clipwise.errors import ArgumentError
from clipwise.functional.inputs import shape_of, written
from clipwise.functional.ratios._inputs import counted, wide
from clipwise.namespace import Array, Namespace

Aggregate: TypeAlias = Literal["token_mean", "sequence_mean", "constant"]


def aggregate(
    values: Array, how: Aggregate = "token_mean", *, mask: Array | None = None, length: float | None = None
) -> Array:
    """The mean of per-token terms, in one of three ways; m is the mask, T is ``length``.

    ::

        token_mean      sum(m x) / sum(m)                        every token has the same weight (DAPO)
        sequence_mean   mean over sequences of sum(m x) / sum(m) every sequence has the same weight (GRPO)
        constant        mean over sequences of sum(m x) / T      every token has the weight 1/T (Dr. GRPO)

    Tokens lie along the last axis. A sequence without unmasked tokens counts as a term of 0. If no token is
    left, the result and its gradients are 0.

    Args:
        values: one term per token, an array of any framework.
        how: ``"token_mean"``, ``"sequence_mean"`` or ``"constant"``.
        mask: of the same shape. Entries that are False or 0 are ignored and may hold anything, also NaN.
        length: T, the maximum length of a sequence; for ``"constant"`` only.

    Returns:
        The mean, 0-d.

    Raises:
        ArgumentError: a shape does not fit, ``how`` is unknown, or ``length`` is missing for ``"constant"``
            or given for another one.

    Source: GRPO arXiv:2402.03300, DAPO arXiv:2503.14476, Dr. GRPO arXiv:2503.20783.

    >>> import numpy as np
    >>> terms, mask = np.asarray([[1.0, 1.0, 1.0], [4.0, 0.0, 0.0]]), np.asarray([[1, 1, 1], [1, 0, 0]])
    >>> [float(aggregate(terms, how, mask=mask)) for how in ("token_mean", "sequence_mean")]
    [1.75, 2.5]
    """
    xp, values = wide("values", values)
    shape = shape_of("values", values)
    if 0 in shape:
        raise ArgumentError(f"values has no entries: its shape is {written(shape)}")
    check_aggregate(how, length, len(shape))
    return total(xp, values, counted(xp, values, mask), how, length)


def check_aggregate(how: str, length: float | None, axes: int) -> None:
    """ArgumentError unless the aggregation is known and has the arguments that it needs."""
    if how not in get_args(Aggregate):
        raise ArgumentError(f"aggregate must be one of {', '.join(get_args(Aggregate))}, got {how!r}")
    if how != "token_mean" and axes < 2:
        raise ArgumentError(
            f"{how!r} needs sequences along the last of at least two axes, and there is {axes}"
        )
    if (how == "constant") != (length is not None):
        raise ArgumentError(
            "'constant' divides by a length: give length=, the longest that a sequence may be"
            if length is None
            else f"length= belongs to aggregate='constant', and this is {how!r}"
        )
    if length is not None and not check_number("length", length) > 0:
        raise ArgumentError(f"length must be above 0, got {length!r}")


def total(xp: Namespace, values: Array, kept: Array, how: str, length: float | None) -> Array:
    """Like `aggregate`, for arrays whose shapes are known to fit."""
    if how == "token_mean":
        return masked_mean(xp, values, kept)
    sums = xp.sum(xp.where(kept, values, xp.zeros(())), axis=-1)
    if how == "constant":
        return xp.mean(sums / length)
    counts = xp.sum(xp.astype(kept, xp.float_dtype), axis=-1)
    return xp.mean(sums / xp.where(counts > 0, counts, xp.full((), 1.0)))


def masked_mean(xp: Namespace, values: Array, kept: Array) -> Array:
    """The mean of the unmasked entries; 0 if there are none."""
    count = xp.sum(xp.astype(kept, xp.float_dtype))
    return xp.sum(xp.where(kept, values, xp.zeros(()))) / xp.where(count > 0, count, xp.full((), 1.0))
