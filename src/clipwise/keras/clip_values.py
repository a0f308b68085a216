"""A layer that brings the inputs of a model within bounds, learnt once and saved with the model."""

import math
from typing import Any

import keras

from clipwise.checks import feature_bounds
from clipwise.errors import ArgumentError
from clipwise.functional.single_values import warn_of_single_values

__all__ = ["ClipValues"]


@keras.saving.register_keras_serializable(package="clipwise")
class ClipValues(keras.layers.Layer):  # type: ignore[misc]
    """``y = min(max(x, low), high)``, for all values alike or for each feature of the last axis.

    The bounds are part of the layer's configuration and nothing is trained. NaN stays NaN. The gradient is 1
    from ``low`` to ``high`` and 0 outside.

    Args:
        low, high: a number, or ``(F,)`` one a feature, such as ``lower_`` and ``upper_`` of a fitted
            `clipwise.data.Clipper`; None, -inf and inf where there is no bound.
        kwargs: name, dtype and the like, as of every layer.

    Warns:
        UserWarning: a feature's two bounds are the same, as where a rule was given a mostly constant column.

    Raises:
        ArgumentError: a bound is NaN or no number, the two are crossed or differ in length; an input is not
            of floats, or its last axis does not fit.

    >>> import numpy as np
    >>> layer = ClipValues([-1.0, None], [1.0, 5.0])
    >>> keras.ops.convert_to_numpy(layer(np.array([[-3.0, -3.0], [0.5, 9.0]], "float32"))).tolist()
    [[-1.0, -3.0], [0.5, 5.0]]
    """

    def __init__(self, low: Any = None, high: Any = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._low, self._high = feature_bounds(low, high)
        warn_of_single_values(self._low, self._high)
        self.supports_masking = True

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Check that there are as many bounds as features."""
        for bound in (self._low, self._high):
            if bound.ndim and (not input_shape or input_shape[-1] != len(bound)):
                raise ArgumentError(
                    f"bounds for {len(bound)} features do not fit an input of shape {tuple(input_shape)}"
                )
        super().build(input_shape)

    def call(self, inputs: Any) -> Any:
        """The values of any shape within the bounds, in the layer's type."""
        values = inputs
        if not keras.backend.is_float_dtype(values.dtype):
            dtype = keras.backend.standardize_dtype(values.dtype)
            raise ArgumentError(f"expected floating-point values, got {dtype}")
        # Comparisons with NaN are false on every back end; minimum and maximum may lose it.
        if (self._low > -math.inf).any():
            low = keras.ops.cast(self._low, values.dtype)
            values = keras.ops.where(values < low, low, values)
        if (self._high < math.inf).any():
            high = keras.ops.cast(self._high, values.dtype)
            values = keras.ops.where(values > high, high, values)
        return values

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """That of the input."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Both bounds, None where there is none, beside the configuration of every layer."""
        config: dict[str, Any] = super().get_config()
        return config | {"low": _plain(self._low), "high": _plain(self._high)}


def _plain(bound: Any) -> Any:
    """As JSON can hold it."""
    if not bound.ndim:
        return float(bound) if math.isfinite(bound) else None
    return [float(one) if math.isfinite(one) else None for one in bound]
