"""The value loss, clipped around the value estimates from the time of sampling."""

from typing import Literal, NamedTuple

from clipwise.errors import ArgumentError
from clipwise.functional.inputs import shape_of, written
from clipwise.functional.ratios._aggregate import masked_mean
from clipwise.functional.ratios._epsilon import Epsilon, epsilon_at
from clipwise.functional.ratios._inputs import counted, expect, like, wide
from clipwise.namespace import Array, stop_gradient


class ValueFigures(NamedTuple):
    """What was clipped: 0-d arrays without gradients.

    Attributes:
        outside: share of the values that differ from the old ones by more than epsilon.
        binding: share of the values that get no gradient because of the clip.
    """

    outside: Array
    binding: Array

    def metrics(self, prefix: str = "value/") -> dict[str, float]:
        """The figures as plain numbers by name, for any logger; needs a host-device sync."""
        return {prefix + name: float(value) for name, value in zip(self._fields, self, strict=True)}


class ValueLoss(NamedTuple):
    """A loss to minimise, 0-d, and its figures; unpacks as ``loss, figures``."""

    loss: Array
    figures: ValueFigures


def value_clip(
    values: Array,
    old_values: Array,
    returns: Array,
    epsilon: Epsilon = 0.2,
    *,
    convention: Literal["max", "clipped"] = "max",
    mask: Array | None = None,
    step: Array | None = None,
) -> ValueLoss:
    """The clipped loss of a value function: ``V' = Vold + clip(V - Vold, -epsilon, epsilon)``, R the returns.

    ::

        max       .5 mean(max((V - R)^2, (V' - R)^2))    OpenAI Baselines, CleanRL, TRL, verl
        clipped      mean((V' - R)^2)                    Stable-Baselines3

    The second has no factor 1/2, and gives no gradient to a value that has moved by more than epsilon. The
    first gives one to values that moved away from the returns. Only ``values`` is differentiated.

    Args:
        values: output of the value function; an array of numpy, torch, JAX or TensorFlow.
        old_values: its output at the time of sampling, of the same shape.
        returns: the targets, of the same shape.
        epsilon: at least 0, in the units of the values, so that no default suits every reward: a number, a
            0-d array, a function of the step, or a schedule of `clipwise.thresholds`. `math.inf` clips
            nothing.
        convention: ``"max"`` or ``"clipped"``, see above.
        mask: of the same shape. Entries that are False or 0 are ignored and may hold anything, also NaN.
        step: step number, for an epsilon that depends on it.

    Returns:
        A `ValueLoss`: the loss, 0-d, and its figures.

    Raises:
        ArgumentError: a shape or an argument does not fit.
        ThresholdError: epsilon is below 0.

    Source: OpenAI Baselines, ppo2; Stable-Baselines3, ``PPO(clip_range_vf=...)``.

    >>> import numpy as np
    >>> v, old, r = np.asarray([1.0]), np.asarray([0.0]), np.asarray([2.0])
    >>> [round(float(value_clip(v, old, r, convention=c).loss), 12) for c in ("max", "clipped")]
    [1.62, 3.24]
    """
    if convention not in ("max", "clipped"):
        raise ArgumentError(f"convention must be 'max' or 'clipped', got {convention!r}")
    xp, values = wide("values", values)
    shape = shape_of("values", values)
    if 0 in shape:
        raise ArgumentError(f"values has no entries: its shape is {written(shape)}")
    old_values = stop_gradient(like(xp, "old_values", old_values))
    returns = stop_gradient(like(xp, "returns", returns))
    expect("old_values", old_values, shape)
    expect("returns", returns, shape)
    kept = counted(xp, values, mask)
    limit = epsilon_at(xp, "epsilon", epsilon, step)
    # Before anything is computed: what padding holds may be infinite, and its gradient must be 0, not NaN.
    values, old_values, returns = (xp.where(kept, x, xp.zeros(())) for x in (values, old_values, returns))

    moved = values - old_values
    free = (values - returns) ** 2
    # The value itself where nothing is clipped, not old + (new - old), which rounds: then the two are equal.
    ends = xp.where(moved > limit, old_values + limit, xp.where(moved < -limit, old_values - limit, values))
    clipped = (ends - returns) ** 2
    outside = xp.abs(stop_gradient(moved)) > limit
    worse = stop_gradient(clipped) > stop_gradient(free)
    if convention == "max":
        loss = 0.5 * masked_mean(xp, xp.where(worse, clipped, free), kept)
        binding = outside & worse
    else:
        loss, binding = masked_mean(xp, clipped, kept), outside
    shares = (masked_mean(xp, xp.astype(flags, xp.float_dtype), kept) for flags in (outside, binding))
    return ValueLoss(loss, ValueFigures(*shares))
