"""The functions of `clipwise.functional.activations` as Keras layers, on every back end.

They compute in the layer's compute dtype and can be saved. Import `clipwise.keras` before `load_model`.
"""

from typing import Any

import keras

from clipwise.checks import bounds_of, number, positive
from clipwise.errors import ArgumentError
from clipwise.functional.activations import (
    clamped_swiglu,
    clipped_relu,
    hard_tanh,
    pact,
    soft_cap,
    split_gate_up,
)

__all__ = ["PACT", "ClampedSwiGLU", "ClippedReLU", "HardTanh", "SoftCap"]

_registered = keras.saving.register_keras_serializable("clipwise")


class _Elementwise(keras.layers.Layer):  # type: ignore[misc]
    """A layer whose output has the shape of its input, and whose settings are attributes."""

    _settings: tuple[str, ...] = ()

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.supports_masking = True

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return dict(super().get_config(), **{name: getattr(self, name) for name in self._settings})


@_registered
class ClippedReLU(_Elementwise):
    """``min(max(x, 0), bound)``, see `clipwise.functional.activations.clipped_relu`.

    >>> import numpy as np
    >>> keras.ops.convert_to_numpy(ClippedReLU(6.0)(np.array([-1.0, 0.5, 7.0]))).tolist()
    [0.0, 0.5, 6.0]
    """

    _settings = ("bound",)

    def __init__(self, bound: float = 6.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.bound = positive("bound", bound)

    def call(self, x: Any) -> Any:
        return clipped_relu(x, self.bound)


@_registered
class HardTanh(_Elementwise):
    """``min(max(x, low), high)``, see `clipwise.functional.activations.hard_tanh`."""

    _settings = ("low", "high")

    def __init__(self, low: float = -1.0, high: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.low, self.high = bounds_of(low, high)

    def call(self, x: Any) -> Any:
        return hard_tanh(x, self.low, self.high)


@_registered
class SoftCap(_Elementwise):
    """``cap * tanh(x / cap)``, see `clipwise.functional.activations.soft_cap`."""

    _settings = ("cap",)

    def __init__(self, cap: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.cap = positive("cap", cap, finite=True)

    def call(self, x: Any) -> Any:
        return soft_cap(x, self.cap)


@_registered
class PACT(_Elementwise):
    """``min(max(x, 0), alpha)`` with a learned alpha, see `clipwise.functional.activations.pact`.

    Args:
        alpha: initial value, finite and above 0.
        axis: axis of the input along which each entry has its own bound; None for one bound.
        regularizer: a Keras regularizer for alpha. The paper uses the L2 penalty of the weights.

    Raises:
        ArgumentError: alpha is not a finite number above 0; when the layer is built: the input does not have
            this axis, or its length is unknown.
    """

    def __init__(
        self, alpha: float = 10.0, *, axis: int | None = None, regularizer: Any = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.start = positive("alpha", alpha, finite=True)
        self.axis = axis
        self.regularizer = keras.regularizers.get(regularizer)

    def build(self, input_shape: Any) -> None:
        shape: tuple[int, ...] = ()
        if self.axis is not None:
            if not -len(input_shape) <= self.axis < len(input_shape) or input_shape[self.axis] is None:
                raise ArgumentError(f"PACT: an input of shape {input_shape} has no known axis {self.axis}")
            shape = (input_shape[self.axis],)
        self.alpha = self.add_weight(
            shape=shape,
            initializer=keras.initializers.Constant(self.start),
            regularizer=self.regularizer,
            autocast=False,  # or a half would sum its gradient
            name="alpha",
        )
        super().build(input_shape)

    def call(self, x: Any) -> Any:
        return pact(x, self.alpha.value, axis=self.axis)

    def get_config(self) -> dict[str, Any]:
        regularizer = keras.regularizers.serialize(self.regularizer)
        return dict(super().get_config(), alpha=self.start, axis=self.axis, regularizer=regularizer)


@_registered
class ClampedSwiGLU(_Elementwise):
    """`clipwise.functional.activations.clamped_swiglu` of the two halves of the last axis.

    The input has the shape ``(..., 2 * width)``, the output ``(..., width)``.

    Args:
        limit, alpha, offset: as for `clipwise.functional.activations.clamped_swiglu`.
        interleaved: True if gate and up alternate along the axis, as in gpt-oss; False if the gates come
            first.
    """

    _settings = ("limit", "alpha", "offset", "interleaved")

    def __init__(
        self,
        limit: float = 7.0,
        alpha: float = 1.702,
        offset: float = 1.0,
        *,
        interleaved: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.limit = positive("limit", limit)
        self.alpha = positive("alpha", alpha, finite=True)
        self.offset = number("offset", offset)
        self.interleaved = bool(interleaved)

    def call(self, x: Any) -> Any:
        gate, up = split_gate_up(x, interleaved=self.interleaved)
        return clamped_swiglu(gate, up, limit=self.limit, alpha=self.alpha, offset=self.offset)

    def compute_output_shape(self, input_shape: Any) -> Any:
        last = input_shape[-1]
        return (*input_shape[:-1], None if last is None else last // 2)
