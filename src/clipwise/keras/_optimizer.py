"""Keras optimizers that clip where Keras does: subclasses, derived at runtime from any optimizer class.

Keras clips after unscaling the gradients and summing micro-batches, and before weight decay and the update.
The overridden methods are that one, and those that must not run in a skipped step.
"""

from collections.abc import Sequence
from typing import Any

import keras

from clipwise.errors import ArgumentError
from clipwise.keras._backends import backend
from clipwise.keras._step import Clipping, step_variables, stepping


class ClippedOptimizer:
    """The overridden methods; a clipped optimizer's class is derived from this one and its own."""

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
        return bool(self._clipwise.leaves_out)

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
        updates, weights = self._clipwise.updates, self._clipwise.weights

        def act(grads: Any, trainable_variables: Any, learning_rate: Any) -> None:
            if updates is None:
                update(grads, trainable_variables, learning_rate)
            else:
                updates.around(
                    self,
                    trainable_variables,
                    learning_rate,
                    lambda: update(grads, trainable_variables, learning_rate),
                )
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
