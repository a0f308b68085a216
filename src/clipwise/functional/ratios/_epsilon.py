"""The clipping range of a ratio: a number, or a function of the step."""

import math
import numbers
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from clipwise.checks import check_number
from clipwise.errors import ArgumentError
from clipwise.functional.inputs import shape_of
from clipwise.functional.ratios._inputs import clamp
from clipwise.namespace import Array, Namespace, stop_gradient
from clipwise.thresholds import Observation, Threshold

Epsilon: TypeAlias = float | Threshold | Callable[[Any], Any] | Array
"""A number, a 0-d array, a function of the step, or a policy of `clipwise.thresholds` that follows it."""

_HERE = (np.ndarray, np.generic)  # as a union torch's compiler could not read it


def epsilon_at(
    xp: Namespace, name: str, epsilon: Epsilon, step: Array | None, *, high: float = math.inf
) -> Array:
    """The value for this step, 0-d, in [0, high].

    A Python number outside of this range raises ThresholdError, whether it is given or returned by a
    function. A number on a device is clamped instead, since checking it would need a host-device sync.

    >>> import numpy as np
    >>> from clipwise.namespace import namespace_of
    >>> from clipwise.thresholds import linear
    >>> float(epsilon_at(namespace_of(np.zeros(1)), "low", linear(0.5, 0.25, steps=10), step=4))
    0.4
    """
    value = epsilon_here(xp, name, epsilon, step, high=high)
    return xp.asarray(value) if isinstance(value, float) else value


def epsilon_here(
    xp: Namespace, name: str, epsilon: Epsilon, step: Array | None, *, high: float = math.inf
) -> float | Array:
    """`epsilon_at`, as a plain number if it is one."""
    value: Any = epsilon
    if hasattr(value, "dtype"):
        pass
    elif hasattr(value, "update") and not isinstance(value, type):  # in torch's compiler: no isinstance
        value = _of_policy(xp, name, value, _step(name, step), high)
    elif callable(value):
        value = value(_step(name, step))
    if not _elsewhere(value):
        return check_number(name, value, high=high)
    shape = shape_of(name, value)
    if shape != ():
        raise ArgumentError(f"{name} must be a single number, got an array of shape {shape}")
    value = xp.astype(xp.asarray(stop_gradient(value)), xp.float_dtype)
    return clamp(xp, value, xp.zeros(()), xp.asarray(high))


def _of_policy(xp: Namespace, name: str, policy: Threshold, step: Any, high: float) -> Any:
    if policy.needs or policy.watches_norm:
        raise ArgumentError(
            f"{name} may follow the step only, and {policy!r} follows the training: give a number, a function"
            " of the step, or linear, cosine, exponential or schedule of clipwise.thresholds"
        )
    for end in ("start", "stop"):  # of a schedule: refused at the first step, not when it gets there
        if hasattr(policy, end):
            check_number(f"{name}.{end}", getattr(policy, end), high=high)
    space: Any = np
    if _elsewhere(step):
        space, step = xp, xp.asarray(step)
    seen = Observation(norm=space.zeros(()), step=step)
    return policy.update(space, policy.init(space, ()), seen)[0]


def _step(name: str, step: Array | None) -> Any:
    if step is None:
        raise ArgumentError(f"{name} follows the step: say which one it is, step=")
    if isinstance(step, bool) or (isinstance(step, numbers.Real) and step < 0):
        raise ArgumentError(f"step must be a number of at least 0, got {step!r}")
    if not isinstance(step, numbers.Real) and not hasattr(step, "shape"):
        raise ArgumentError(f"step must be a number of at least 0, got {step!r}")
    return step


def _elsewhere(value: Any) -> bool:
    """Whether a value is an array of a framework, which may be on a device or not known yet."""
    return hasattr(value, "shape") and not isinstance(value, _HERE)
