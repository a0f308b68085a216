"""One number from the terms of many tokens: who weighs how much."""

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
    """The mean of the terms of a loss, in one of three ways; m is the mask, T ``length``.

    ::

        token_mean      sum(m x) / sum(m)                        every token weighs the same (DAPO)
        sequence_mean   mean over sequences of sum(m x) / sum(m) every sequence weighs the same (GRPO)
        constant        mean over sequences of sum(m x) / T      a token weighs 1/T, always (Dr. GRPO)

    Tokens lie along the last axis. A sequence without a token counts as a term of 0; without any token at
    all the result is 0, and so are its gradients.

    Args:
        values: one term a token, of any framework.
        how: one of the three.
        mask: of the same shape; what is False or 0 does not count and may hold anything, NaN too.
        length: T, the longest that a sequence may be; for ``"constant"`` only.

    Raises:
        ArgumentError: a shape that does not fit, another word, ``length`` without ``"constant"`` or the
            other way round.

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
    """ArgumentError unless the way is known and has what it takes."""
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
    """As `aggregate`, of arrays that are known to fit."""
    if how == "token_mean":
        return masked_mean(xp, values, kept)
    sums = xp.sum(xp.where(kept, values, xp.zeros(())), axis=-1)
    if how == "constant":
        return xp.mean(sums / length)
    counts = xp.sum(xp.astype(kept, xp.float_dtype), axis=-1)
    return xp.mean(sums / xp.where(counts > 0, counts, xp.full((), 1.0)))


def masked_mean(xp: Namespace, values: Array, kept: Array) -> Array:
    """The mean of what counts; 0 where nothing does."""
    count = xp.sum(xp.astype(kept, xp.float_dtype))
    return xp.sum(xp.where(kept, values, xp.zeros(()))) / xp.where(count > 0, count, xp.full((), 1.0))
