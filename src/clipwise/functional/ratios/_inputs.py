"""Checks and converts the arguments of the losses: one dtype and device, fitting shapes, 0 where masked."""

from dataclasses import dataclass

from clipwise.checks import check_number
from clipwise.errors import ArgumentError, ThresholdError
from clipwise.functional.inputs import Shape, floats, namespace_for, same_shape, shape_of, written
from clipwise.namespace import Array, Namespace, namespace_of, stop_gradient

BOUND = 20.0
"""How far a log-ratio goes, up and down, before the exponential: e^20 is 4.9e8."""


@dataclass(frozen=True)
class Policies:
    """Log-probabilities under two policies, and advantages.

    Attributes:
        xp: the namespace, bound to the dtype of the computation.
        logp: under the current policy; 0 where masked.
        log_ratio: ``logp - old_logp``, not clamped; 0 where masked.
        advantages: one per entry; 0 where masked.
        by_sequence: the advantages with a last axis of 1, if one per sequence was given.
        counted: which entries are unmasked.
        weights: weights of the terms, 0 where masked; None if all are 1.
    """

    xp: Namespace
    logp: Array
    log_ratio: Array
    advantages: Array
    by_sequence: Array | None
    counted: Array
    weights: Array | None = None

    def weighed(self, terms: Array) -> Array:
        """Terms of the loss, per token or per sequence, times their weights: one per token."""
        if self.weights is not None:
            terms = terms * self.weights
        return self.xp.where(self.counted, terms, self.xp.zeros(()))


def policies(
    logp: Array, old_logp: Array, advantages: Array, mask: Array | None, weights: Array | None = None
) -> Policies:
    """The arrays of a policy loss, checked before anything is computed."""
    xp, logp = wide("logp", logp)
    shape = shape_of("logp", logp)
    if not shape or 0 in shape:
        what = "no axis" if not shape else f"no entries: its shape is {written(shape)}"
        raise ArgumentError(f"logp has {what}")
    old_logp = stop_gradient(like(xp, "old_logp", old_logp))
    expect("old_logp", old_logp, shape)
    advantages, by_sequence = _by_token_or_sequence(xp, "advantages", advantages, shape)
    if weights is not None:
        flags = namespace_for("weights", weights).isdtype(weights.dtype, "bool")
        weights = xp.where(weights, 1.0, 0.0) if flags else weights
        weights, _ = _by_token_or_sequence(xp, "weights", weights, shape)
    kept = counted(xp, logp, mask)
    nothing = xp.zeros(())
    # Before the difference: what padding holds may be infinite, and its gradient must be 0, not NaN.
    logp, old_logp = xp.where(kept, logp, nothing), xp.where(kept, old_logp, nothing)
    advantages = xp.where(kept, advantages, nothing)
    weights = None if weights is None else xp.where(kept, weights, nothing)
    return Policies(xp, logp, logp - old_logp, advantages, by_sequence, kept, weights)


def _by_token_or_sequence(xp: Namespace, name: str, value: Array, shape: Shape) -> tuple[Array, Array | None]:
    """Constants that fit ``logp``; and once more if there is one a sequence, with a last axis of 1."""
    value = stop_gradient(like(xp, name, value))
    found = shape_of(name, value)
    if same_shape(found, shape[:-1]):
        value = value[..., None]
        return value, value
    if len(shape) > 1 and found[-1:] == (1,) and same_shape(found[:-1], shape[:-1]):
        return value, value
    if not same_shape(found, shape):
        raise ArgumentError(
            f"{name} must have the shape of logp, {written(shape)}, or one entry per sequence,"
            f" {written(shape[:-1])}, got {written(found)}"
        )
    return value, None


def wide(name: str, value: Array) -> tuple[Namespace, Array]:
    """An array of floats in at least float32, and the namespace bound to its dtype and device."""
    xp, value = floats(name, value, "hold floats")
    if xp.finfo(value.dtype).bits < 32:
        value = xp.astype(value, xp.float32)
        xp = namespace_of(value)
    return xp, value


def like(xp: Namespace, name: str, value: Array) -> Array:
    """An array of numbers, in the framework and the float dtype that are bound."""
    own = namespace_for(name, value)
    if not own.isdtype(value.dtype, ("real floating", "integral")):
        raise ArgumentError(f"{name} must hold numbers, got {value.dtype}")
    value = value if own.framework == xp.framework else xp.asarray(stop_gradient(value))
    return xp.astype(value, xp.float_dtype)


def mean_by_sequence(xp: Namespace, values: Array, kept: Array) -> tuple[Array, Array]:
    """The mean of each sequence's unmasked entries (0 if there are none), and whether there are any.

    Both have a last axis of 1.
    """
    counts = xp.sum(xp.astype(kept, xp.float_dtype), axis=-1, keepdims=True)
    some = counts > 0
    sums = xp.sum(xp.where(kept, values, xp.zeros(())), axis=-1, keepdims=True)
    return sums / xp.where(some, counts, xp.full((), 1.0)), some


def counted(xp: Namespace, array: Array, mask: Array | None) -> Array:
    """Which entries are unmasked, as booleans: all without a mask, otherwise those that are not 0."""
    if mask is None:
        return xp.ones_like(array) > 0
    own = namespace_for("mask", mask)
    expect("mask", mask, shape_of("", array))
    mask = mask if own.framework == xp.framework else xp.asarray(mask)
    return mask if xp.isdtype(mask.dtype, "bool") else mask != 0


def check_bound(bound: float) -> float:
    """The bound of a log-ratio. Above 40 its exponential times an advantage may overflow float32."""
    if not check_number("bound", bound, high=40.0) > 0:
        raise ThresholdError(f"bound must be above 0, got {bound!r}")
    return float(bound)


def clamp(xp: Namespace, x: Array, low: Array, high: Array) -> Array:
    """``min(max(x, low), high)``; the derivative is 1 from bound to bound, both included, and 0 outside.

    With the frameworks' own functions the derivative at a bound would be 1, 1/2 or 0.
    """
    return xp.where(x > high, high, xp.where(x < low, low, x))


def expect(name: str, value: Array, shape: Shape) -> None:
    """ArgumentError unless the array has this shape."""
    found = shape_of(name, value)
    if not same_shape(found, shape):
        raise ArgumentError(f"{name} must have the shape {written(shape)}, got {written(found)}")
