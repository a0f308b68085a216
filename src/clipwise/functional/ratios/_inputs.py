"""What is given, made ready: one dtype and device, shapes that fit, nothing of what the mask leaves out."""

import sys
from dataclasses import dataclass
from typing import Any

from clipwise.errors import ArgumentError, ThresholdError
from clipwise.namespace import Array, Namespace, namespace_of
from clipwise.thresholds import check_number

__all__ = [
    "BOUND",
    "Policies",
    "check_bound",
    "clamp",
    "counted",
    "describe",
    "dims",
    "expect",
    "like",
    "policies",
    "stop_gradient",
    "wide",
]

BOUND = 20.0
"""How far a log-ratio goes, up and down, before the exponential: e^20 is 4.9e8."""


@dataclass(frozen=True)
class Policies:
    """Log-probabilities of two policies, and what the actions were worth.

    Attributes:
        xp: the namespace, bound to the dtype that everything is computed in.
        logp: of the policy that learns; 0 where the mask leaves out.
        log_ratio: ``logp - old_logp``, not bounded; 0 where the mask leaves out.
        advantages: of every entry; 0 where the mask leaves out.
        by_sequence: the advantages with one entry along the last axis, where they were given by sequence.
        counted: which entries count.
    """

    xp: Namespace
    logp: Array
    log_ratio: Array
    advantages: Array
    by_sequence: Array | None
    counted: Array


def policies(logp: Array, old_logp: Array, advantages: Array, mask: Array | None) -> Policies:
    """The arrays of a policy loss, checked before anything is computed."""
    xp, logp = wide("logp", logp)
    shape = dims("logp", logp)
    if not shape or 0 in shape:
        what = "no axis" if not shape else f"no entries: its shape is {describe(shape)}"
        raise ArgumentError(f"logp has {what}")
    old_logp = stop_gradient(like(xp, "old_logp", old_logp))
    expect("old_logp", old_logp, shape)
    advantages = stop_gradient(like(xp, "advantages", advantages))
    found = dims("advantages", advantages)
    by_sequence = None
    if _fits(found, shape[:-1]):
        by_sequence = advantages[..., None]
    elif len(shape) > 1 and found[-1:] == (1,) and _fits(found[:-1], shape[:-1]):
        by_sequence = advantages
    elif not _fits(found, shape):
        raise ArgumentError(
            f"advantages must have the shape of logp, {describe(shape)}, or one entry a sequence,"
            f" {describe(shape[:-1])}, got {describe(found)}"
        )
    kept = counted(xp, logp, mask)
    nothing = xp.zeros(())
    # Before the difference: what padding holds may be infinite, and its gradient must be 0, not NaN.
    logp, old_logp = xp.where(kept, logp, nothing), xp.where(kept, old_logp, nothing)
    advantages = xp.where(kept, advantages if by_sequence is None else by_sequence, nothing)
    return Policies(xp, logp, logp - old_logp, advantages, by_sequence, kept)


def wide(name: str, value: Array) -> tuple[Namespace, Array]:
    """An array of floats in at least float32, and the namespace bound to its dtype and device."""
    xp = _namespace(name, value)
    if not xp.isdtype(value.dtype, "real floating"):
        raise ArgumentError(f"{name} must hold floats, got {value.dtype}")
    if xp.finfo(value.dtype).bits < 32:
        value = xp.astype(value, xp.float32)
        xp = namespace_of(value)
    return xp, value


def like(xp: Namespace, name: str, value: Array) -> Array:
    """An array of numbers, in the framework and the float dtype that are bound."""
    own = _namespace(name, value)
    if not own.isdtype(value.dtype, ("real floating", "integral")):
        raise ArgumentError(f"{name} must hold numbers, got {value.dtype}")
    value = value if _same(own, xp) else xp.asarray(stop_gradient(value))
    return xp.astype(value, xp.float_dtype)


def counted(xp: Namespace, array: Array, mask: Array | None) -> Array:
    """Which entries count, as booleans: all of them without a mask, and else those that are not 0."""
    if mask is None:
        return xp.ones_like(array) > 0
    own = _namespace("mask", mask)
    expect("mask", mask, dims("", array))
    mask = mask if _same(own, xp) else xp.asarray(mask)
    return mask if xp.isdtype(mask.dtype, "bool") else mask != 0


def check_bound(bound: float) -> float:
    """How far a log-ratio may go; above 40 its exponential times an advantage may leave float32."""
    if not check_number("bound", bound, high=40.0) > 0:
        raise ThresholdError(f"bound must be above 0, got {bound!r}")
    return float(bound)


def clamp(xp: Namespace, x: Array, low: Array, high: Array) -> Array:
    """``min(max(x, low), high)``; its derivative is 1 from bound to bound, both included, 0 beyond them.

    With the frameworks' own functions the derivative on a bound would be 1, 1/2 or 0.
    """
    return xp.where(x > high, high, xp.where(x < low, low, x))


def stop_gradient(x: Array) -> Array:
    """The same values, as constants to the framework that differentiates."""
    if hasattr(x, "detach"):
        return x.detach()
    jax, tensorflow = sys.modules.get("jax"), sys.modules.get("tensorflow")
    if jax is not None and isinstance(x, jax.Array):
        return jax.lax.stop_gradient(x)
    if tensorflow is not None and isinstance(x, tensorflow.Tensor | tensorflow.Variable):
        return tensorflow.stop_gradient(x)
    return x


def describe(shape: tuple[int | None, ...]) -> str:
    """A shape as it is written: ``(4, 7)``, with ``?`` for what is known only when a graph runs."""
    inner = ", ".join("?" if n is None else str(n) for n in shape)
    return f"({inner},)" if len(shape) == 1 else f"({inner})"


def expect(name: str, value: Array, shape: tuple[int | None, ...]) -> None:
    """ArgumentError unless the array has this shape."""
    found = dims(name, value)
    if not _fits(found, shape):
        raise ArgumentError(f"{name} must have the shape {describe(shape)}, got {describe(found)}")


def dims(name: str, value: Array) -> tuple[int | None, ...]:
    """The shape of an array; None for lengths that only a running graph knows."""
    try:
        return tuple(value.shape)
    except ValueError as error:  # of a TensorFlow tensor of which not even the rank is known
        raise ArgumentError(f"{name} must have a known number of axes, got shape {value.shape}") from error


def _namespace(name: str, value: Any) -> Namespace:
    if not hasattr(value, "shape") or not hasattr(value, "dtype"):
        raise ArgumentError(
            f"{name} must be an array of numpy, torch, JAX or TensorFlow, got {type(value).__name__}"
        )
    try:
        return namespace_of(value)
    except TypeError as error:
        raise ArgumentError(
            f"{name} must be an array of numpy, torch, JAX or TensorFlow, got {type(value).__name__}"
        ) from error


def _fits(found: tuple[int | None, ...], wanted: tuple[int | None, ...]) -> bool:
    return len(found) == len(wanted) and all(
        a is None or b is None or a == b for a, b in zip(found, wanted, strict=True)
    )


def _same(a: Namespace, b: Namespace) -> bool:
    return a.where is b.where  # one framework's own function
