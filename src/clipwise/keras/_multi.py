"""Keras' MultiOptimizer, which assigns each variable to one of several optimizers: one clip for all."""

from collections.abc import Sequence
from typing import Any

import keras

from clipwise.errors import ArgumentError
from clipwise.keras._backends import backend
from clipwise.keras._optimizer import ClippedOptimizer
from clipwise.keras._step import refuse_own_clips, stepping


def is_multi(optimizer: Any) -> bool:
    """Whether it is a MultiOptimizer, which older versions of Keras do not have."""
    kind = getattr(keras.optimizers, "MultiOptimizer", None)
    return kind is not None and isinstance(optimizer, kind)


class ClippedMultiOptimizer(ClippedOptimizer):
    """Clips the gradients of all variables together before they are passed to the inner optimizers."""

    def build(self: Any, variables: Sequence[Any]) -> None:
        if self.built and self._clipwise.memory is not None:
            return
        super(ClippedOptimizer, self).build(variables)  # type: ignore[misc]
        for inner in self.optimizers:
            refuse_inner(inner, own_clips=self._clipwise.measures)
        self._clipwise.build(self, self._trainable_variables)

    def apply(self: Any, grads: Sequence[Any], trainable_variables: Sequence[Any] | None = None) -> None:
        grads = list(grads)
        if not grads:
            return
        if not self.built:
            self.build(list(trainable_variables or ()))
            self.built = True
        variables = list(trainable_variables or self._trainable_variables)
        there = [
            (place, g, v)
            for place, (g, v) in enumerate(zip(grads, variables, strict=True))
            if g is not None and not getattr(v, "overwrite_with_gradient", False)
        ]
        scale = self.loss_scale_factor
        if there:
            places, own, of = zip(*there, strict=True)
            true = own if scale is None else [g / scale for g in own]
            with stepping(of):
                for place, g in zip(places, self._clip_gradients(true), strict=True):
                    grads[place] = g
        self.loss_scale_factor = None  # taken off already; the setter tells those inside
        try:
            self._hand_on(grads, variables)
        finally:
            self.loss_scale_factor = scale

    def _hand_on(self: Any, grads: list[Any], variables: list[Any]) -> None:
        apply = super(ClippedOptimizer, self).apply  # type: ignore[misc]
        weights = self._clipwise.weights

        def act(grads: list[Any], variables: list[Any]) -> None:
            apply(grads, variables)
            if weights is not None:
                there = zip(grads, variables, strict=True)
                own = [v for g, v in there if not (g is None or getattr(v, "overwrite_with_gradient", False))]
                weights(self, own)

        if not self._leaves_out():
            act(grads, variables)
            return
        memory = self._clipwise.memory
        kept = {id(variable) for variable in memory.variables}
        changing = [v for v in (*self._trainable_variables, *self.variables) if id(v) not in kept]
        with backend().undone(memory.skip, changing):
            backend().unless(self, memory.skip, act, grads, variables)


def refuse_inner(inner: Any, *, own_clips: bool = False) -> None:
    """Raise ArgumentError for an inner optimizer that does more with gradients than pass them on."""
    if not own_clips:
        refuse_own_clips(inner)
    if inner.gradient_accumulation_steps:
        raise ArgumentError(
            f"{inner.name!r} inside a MultiOptimizer has gradient_accumulation_steps="
            f"{inner.gradient_accumulation_steps}, so there is no moment at which all gradients are summed"
            " up: attach a clip to each of the optimizers instead"
        )
