"""The class of a clipped optimizer, derived from its own class at runtime, and how it is saved."""

import functools
from collections.abc import Mapping
from typing import Any

import keras

from clipwise.config import to_dict
from clipwise.config.arguments import as_clip
from clipwise.keras._backends import backend
from clipwise.keras._multi import ClippedMultiOptimizer, is_multi
from clipwise.keras._optimizer import ClippedOptimizer
from clipwise.keras._step import Clipping
from clipwise.keras._updates import UpdateClipping
from clipwise.keras._weights import WeightClipping

CLIPPED = "_clipwise"
"""The attribute in which an optimizer holds its `Clipping`."""


class SavedWithClip:
    """Conversion of clipped optimizers to and from configurations."""

    _clipwise: Clipping

    def get_config(self: Any) -> dict[str, Any]:
        """The optimizer's own configuration; its class and the clip are under ``clipwise``.

        Raises:
            ConfigError: the clip holds a function or a policy of the user's own, which no file can hold.
        """
        clipping = self._clipwise
        found: dict[str, Any] = super().get_config()  # type: ignore[misc]
        found["clipwise"] = {
            "optimizer": _identity(inner_class(self)),
            "clip": None if clipping.measures else to_dict(clipping.clip),
            "weights": None if clipping.weights is None else to_dict(clipping.weights.clip),
            "updates": None if clipping.updates is None else to_dict(clipping.updates.clip),
            "nonfinite": clipping.nonfinite,
            "direction": clipping.direction,
            "unit_axes": _as_lists(clipping.unit_axes or {}),
            "units": _as_lists(clipping.units),
            "variables": [[slot.name, *slot.shape] for slot in clipping.slots],
        }
        return found

    def __reduce__(self) -> tuple[Any, ...]:
        """As in Keras, but through a function, since a class created at runtime cannot be found by its name.

        An optimizer that is pickled alone keeps its settings, here with the clip. A pickled model also keeps
        the variables of its optimizer.
        """
        return _unpickled, super().__reduce__()[1]

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Any:
        """The optimizer of a configuration, with its clip attached."""
        own = dict(config)
        said = own.pop("clipwise")
        made = keras.saving.deserialize_keras_object(
            {**said["optimizer"], "config": own}, custom_objects=custom_objects
        )
        updates = None
        if said.get("updates") is not None:
            updates = UpdateClipping(as_clip(said["updates"]), said["nonfinite"])
        return with_clipping(
            made,
            Clipping(
                None if said["clip"] is None else as_clip(said["clip"]),
                weights=None if said.get("weights") is None else WeightClipping(as_clip(said["weights"])),
                updates=updates,
                nonfinite=said["nonfinite"],
                direction=said["direction"],
                unit_axes=_as_tuples(said["unit_axes"]),
                units=_as_tuples(said["units"]),
                saved=[(name, tuple(shape)) for name, *shape in said["variables"]],
            ),
        )


def _unpickled(saved: Any) -> Any:
    """What was pickled; that this is found here is what makes the class known where nothing else does."""
    return keras.optimizers.Optimizer._unpickle_model(saved)


def with_clipping(optimizer: Any, clipping: Clipping) -> Any:
    """Make an optimizer clip, in place."""
    if optimizer.built:
        clipping.build(optimizer, optimizer._trainable_variables)
    object.__setattr__(optimizer, CLIPPED, clipping)  # past what tracks attributes: it is no variable
    mixin: type = ClippedMultiOptimizer if is_multi(optimizer) else ClippedOptimizer
    object.__setattr__(optimizer, "__class__", clipped_class(type(optimizer), mixin))  # type: ignore[arg-type]
    return optimizer


@functools.cache
def clipped_class(inner: type, mixin: type = ClippedOptimizer) -> type:
    """The clipped version of an optimizer class. Keras finds all of them under one registered name."""
    plain = backend().as_it_is
    made = type(
        f"Clipped{inner.__name__}",
        (SavedWithClip, mixin, inner),
        {
            "__module__": "clipwise.keras",
            "__doc__": inner.__doc__,
            "apply": plain(mixin.apply),  # type: ignore[attr-defined]
        },
    )
    return register(made)


def inner_class(optimizer: Any) -> type:
    """The class that a clipped optimizer was derived from."""
    found: type = type(optimizer).__bases__[-1]
    return found


def register(made: type) -> type:
    """Register a class with Keras as that of clipped optimizers, for saving and loading."""
    found: type = keras.saving.register_keras_serializable("clipwise", "ClippedOptimizer")(made)
    return found


def _identity(inner: type) -> dict[str, Any]:
    """How Keras finds a class."""
    if inner.__module__.startswith("keras."):  # on PyTorch of a class that is not public, under one that is
        for one in inner.__mro__:
            if getattr(keras.optimizers, one.__name__, None) is one:
                return {"module": "keras.optimizers", "class_name": one.__name__, "registered_name": None}
    return {
        "module": inner.__module__,
        "class_name": inner.__name__,
        "registered_name": keras.saving.get_registered_name(inner),
    }


def _as_lists(axes: Mapping[str, Any]) -> dict[str, Any]:
    return {name: list(axis) if isinstance(axis, tuple) else axis for name, axis in axes.items()}


def _as_tuples(axes: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(axis) if isinstance(axis, list) else axis for name, axis in axes.items()}


register(SavedWithClip)
