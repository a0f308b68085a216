"""A clip as a constraint of a single weight of a Keras layer."""

from collections.abc import Mapping
from typing import Any

import keras

from clipwise import config
from clipwise.clip import AnyClip, ByName, Chain, Clip
from clipwise.config.arguments import as_clip
from clipwise.errors import ArgumentError
from clipwise.functional.arithmetic import arithmetic_of
from clipwise.functional.arrays import MeasuredArrays
from clipwise.functional.clipping import clip_arrays, init_state
from clipwise.functional.context import StepContext
from clipwise.functional.plan import make_plan
from clipwise.functional.slots import make_slots
from clipwise.namespace import Array
from clipwise.thresholds import Threshold

__all__ = ["ClipConstraint"]


@keras.saving.register_keras_serializable("clipwise")
class ClipConstraint(keras.constraints.Constraint):  # type: ignore[misc]
    """A clip of one weight, for ``kernel_constraint=`` and the like: ``w * min(1, threshold / norm(w))``.

    ``ClipConstraint(clip_by_value(0.01))`` is WGAN's weight clipping (Arjovsky et al. 2017,
    arXiv:1701.07875), ``ClipConstraint(Clip(3.0, per="unit"))`` the max-norm constraint of each output unit.
    Unlike ``keras.constraints.MaxNorm`` it finds the axes of a unit itself for any kernel whose last axis is
    the output, keeps weights within the bound bit for bit, and does not overflow for large weights. Keras
    applies constraints after every call of ``apply``, one weight at a time. To clip all weights together, and
    only after steps that change them, use ``clipwise.keras.attach(optimizer, weights=...)``.

    Args:
        clip: the clip; a string or a mapping is read by `clipwise.config.parse`. Its thresholds must be
            numbers or ranges, since a constraint keeps no state between steps.
        units: for ``per="unit"``, the axes along which the units of the weight lie: an axis, several, or None
            if the whole weight is one unit. By default the last axis, if there are two or more.

    Raises:
        ArgumentError: the argument is not a clip, it has parts by name, a threshold is a policy, or an axis
            does not exist.

    >>> import keras, clipwise, clipwise.keras
    >>> bound = clipwise.keras.ClipConstraint(clipwise.Clip(1.0, per="unit"))
    >>> print(keras.ops.convert_to_numpy(bound(keras.ops.convert_to_tensor([[3.0, 0.3], [4.0, 0.4]]))))
    [[0.6 0.3]
     [0.8 0.4]]
    """

    def __init__(self, clip: AnyClip | str | Mapping[str, Any], units: Any = "last") -> None:
        self.clip = as_clip(clip)
        _refuse(self.clip)
        if isinstance(units, str) and units != "last":
            raise ArgumentError(f"units must be an axis, several, or None, got {units!r}")
        self.units = tuple(units) if isinstance(units, list) else units

    def __call__(self, w: Any) -> Array:
        """The clipped weight; unchanged, bit for bit, if it is within the bound."""
        array = keras.ops.stop_gradient(keras.ops.convert_to_tensor(w))
        axes = None if self.units == "last" else {"*": self.units}
        slots = make_slots([("weight", tuple(array.shape))], axes)
        arithmetic, plan = arithmetic_of([array]), make_plan(self.clip, slots)
        measure = MeasuredArrays(arithmetic, slots, [array])
        state = init_state(plan, arithmetic.xp)
        clipped, _, _ = clip_arrays(plan, measure, None, state, StepContext(), "propagate")
        return clipped[0]

    def get_config(self) -> dict[str, Any]:
        """The clip as it is written in a configuration, and the axes of the units."""
        units = list(self.units) if isinstance(self.units, tuple) else self.units
        return {"clip": config.to_string(self.clip), "units": units}


def _refuse(clip: AnyClip) -> None:
    match clip:
        case Clip(action="skip"):
            raise ArgumentError(f"a constraint bounds a weight and leaves no step out, got {clip!r}")
        case Clip(threshold=Threshold() as policy):
            raise ArgumentError(
                f"a constraint keeps no state between steps, so its threshold is a number, got {policy!r}:"
                " use clipwise.keras.attach(optimizer, weights=...)"
            )
        case Chain(clips=clips):
            for part in clips:
                _refuse(part)
        case ByName():
            raise ArgumentError("a constraint bounds one weight and knows no names: use one for each weight")
