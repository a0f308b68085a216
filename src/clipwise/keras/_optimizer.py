"""Keras optimizers that clip in their own place for it: subclasses, made from whatever class there is.

Keras clips after it has undone the scale of the loss and summed up micro-batches, and before weight decay and
the update. What is overridden here is that place, and what surrounds it where a step is left out.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import keras

from clipwise import config
from clipwise.errors import ArgumentError
from clipwise.keras._backends import backend
from clipwise.keras._step import Clipping, step_variables, stepping
from clipwise.keras._weights import WeightClipping

__all__ = ["CLIPPED", "ClippedOptimizer", "clipped_class", "inner_class"]

CLIPPED = "_clipwise"
"""The attribute in which an optimizer holds its `Clipping`."""


class ClippedOptimizer:
    """The overridden methods; a clipped optimizer is of a class made of this one and of its own."""

    _clipwise: Clipping

    def build(self: Any, variables: Sequence[Any]) -> None:
        if self.built and self._clipwise.memory is not None:
            return
        super().build(variables)  # type: ignore[misc]
        self._clipwise.build(self, self._trainable_variables)

    def apply(self: Any, grads: Sequence[Any], trainable_variables: Sequence[Any] | None = None) -> None:
        # Materialised: zip objects and other iterators pass through two hands here.
        grads = list(grads)
        memory = self._clipwise.memory
        if memory is not None and self._leaves_out():
            memory.skip.assign(0.0)
        super().apply(grads, trainable_variables)  # type: ignore[misc]
        if grads and self._leaves_out():
            # A step that is left out is as if it had never been: its micro-batches are not counted either.
            skip = keras.ops.cast(self._clipwise.memory.skip, self._iterations.dtype)
            self._iterations.assign_sub(skip * (self.gradient_accumulation_steps or 1))

    def _backend_apply_gradients(self: Any, grads: Sequence[Any], trainable_variables: Sequence[Any]) -> None:
        with stepping(trainable_variables):
            if not self._leaves_out():
                super()._backend_apply_gradients(grads, trainable_variables)  # type: ignore[misc]
                return
            memory = self._clipwise.memory
            kept = {id(variable) for variable in memory.variables}
            kept |= {id(variable) for variable in getattr(self, "_accumulated_gradients", ())}
            changing = [v for v in (*self._trainable_variables, *self.variables) if id(v) not in kept]
            with backend().undone(memory.skip, changing):
                super()._backend_apply_gradients(grads, trainable_variables)  # type: ignore[misc]

    def _clip_gradients(self: Any, grads: Sequence[Any]) -> list[Any]:
        variables = step_variables()
        if variables is None:
            raise ArgumentError(
                f"{type(self).__name__} clips outside of its step: it overrides parts of Keras' optimizers"
                " that clipping depends on"
            )
        clipped: list[Any] = self._clipwise(self, grads, variables)
        if self._clipwise.measures:
            clipped = super()._clip_gradients(clipped)  # type: ignore[misc]
        return clipped

    def _leaves_out(self: Any) -> bool:
        return bool(self._clipwise.nonfinite == "skip")

    def _unless_left_out(self: Any, act: Any, *arguments: Any) -> None:
        if self._leaves_out() and step_variables() is not None:
            backend().unless(self, self._clipwise.memory.skip, act, *arguments)
        else:
            act(*arguments)

    def _apply_weight_decay(self: Any, variables: Sequence[Any]) -> None:
        if self.weight_decay is not None:
            self._unless_left_out(super()._apply_weight_decay, variables)  # type: ignore[misc]

    def _backend_update_step(self: Any, grads: Any, trainable_variables: Any, learning_rate: Any) -> None:
        update = super()._backend_update_step  # type: ignore[misc]
        weights = self._clipwise.weights

        def act(grads: Any, trainable_variables: Any, learning_rate: Any) -> None:
            update(grads, trainable_variables, learning_rate)
            if weights is not None:
                weights(self, trainable_variables)

        self._unless_left_out(act, grads, trainable_variables, learning_rate)

    def _backend_reset_gradient_accumulators(self: Any) -> None:
        for sums in self._accumulated_gradients:
            if sums is not None:  # on PyTorch Keras multiplies by 0, and NaN would stay
                sums.assign(keras.ops.zeros(sums.shape, dtype=sums.dtype))

    def _all_reduce_sum_gradients(self: Any, grads_and_vars: Any) -> Any:
        return grads_and_vars  # done before clipping

    def _update_model_variables_moving_average(self: Any, trainable_variables: Any) -> None:
        update = super()._update_model_variables_moving_average  # type: ignore[misc]
        self._unless_left_out(update, trainable_variables)

    def _overwrite_model_variables_with_average_value(self: Any, trainable_variables: Any) -> None:
        overwrite = super()._overwrite_model_variables_with_average_value  # type: ignore[misc]
        self._unless_left_out(overwrite, trainable_variables)

    # Saving.

    def get_config(self: Any) -> dict[str, Any]:
        """The optimizer's own configuration, and under ``clipwise`` its class and the clip.

        Raises:
            ConfigError: the clip holds a function or a policy of the user's own, which no file can.
        """
        clipping = self._clipwise
        found: dict[str, Any] = super().get_config()  # type: ignore[misc]
        found["clipwise"] = {
            "optimizer": _identity(inner_class(self)),
            "clip": None if clipping.measures else config.to_dict(clipping.clip),
            "weights": None if clipping.weights is None else config.to_dict(clipping.weights.clip),
            "nonfinite": clipping.nonfinite,
            "direction": clipping.direction,
            "unit_axes": _as_lists(clipping.unit_axes or {}),
            "units": _as_lists(clipping.units),
            "variables": [[slot.name, *slot.shape] for slot in clipping.slots],
        }
        return found

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Any:
        """The optimizer of a configuration, with its clip attached."""
        own = dict(config)
        said = own.pop("clipwise")
        made = keras.saving.deserialize_keras_object(
            {**said["optimizer"], "config": own}, custom_objects=custom_objects
        )
        return put_on(
            made,
            Clipping(
                None if said["clip"] is None else _parsed(said["clip"]),
                weights=None if said.get("weights") is None else WeightClipping(_parsed(said["weights"])),
                nonfinite=said["nonfinite"],
                direction=said["direction"],
                unit_axes=_as_tuples(said["unit_axes"]),
                units=_as_tuples(said["units"]),
                saved=[(name, tuple(shape)) for name, *shape in said["variables"]],
            ),
        )


def put_on(optimizer: Any, clipping: Clipping) -> Any:
    """Make an optimizer clip, in place."""
    from clipwise.keras._multi import ClippedMultiOptimizer, is_multi

    if optimizer.built:
        clipping.build(optimizer, optimizer._trainable_variables)
    object.__setattr__(optimizer, CLIPPED, clipping)  # past what tracks attributes: it is no variable
    mixin: type = ClippedMultiOptimizer if is_multi(optimizer) else ClippedOptimizer
    object.__setattr__(optimizer, "__class__", clipped_class(type(optimizer), mixin))  # type: ignore[arg-type]
    return optimizer


@functools.cache
def clipped_class(inner: type, mixin: type = ClippedOptimizer) -> type:
    """The class of clipped optimizers of some class. Keras finds them all under one registered name."""
    plain = backend().as_it_is
    made = type(
        f"Clipped{inner.__name__}",
        (mixin, inner),
        {
            "__module__": "clipwise.keras",
            "__doc__": inner.__doc__,
            "apply": plain(mixin.apply),  # type: ignore[attr-defined]
        },
    )
    return register(made)


def inner_class(optimizer: Any) -> type:
    """The class that a clipped optimizer is of besides."""
    found: type = type(optimizer).__bases__[1]
    return found


def register(made: type) -> type:
    """Have Keras save and load a class as the one of clipped optimizers."""
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


def _parsed(clip: Mapping[str, Any]) -> Any:
    return config.parse(clip)


def _as_lists(axes: Mapping[str, Any]) -> dict[str, Any]:
    return {name: list(axis) if isinstance(axis, tuple) else axis for name, axis in axes.items()}


def _as_tuples(axes: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(axis) if isinstance(axis, list) else axis for name, axis in axes.items()}


register(ClippedOptimizer)
