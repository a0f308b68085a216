"""A layer that clips the inputs of a model to bounds that are saved with it."""

import math
from typing import Any

import keras

from clipwise.checks import feature_bounds
from clipwise.errors import ArgumentError
from clipwise.functional.single_values import warn_of_single_values

__all__ = ["ClipValues"]


@keras.saving.register_keras_serializable(package="clipwise")
class ClipValues(keras.layers.Layer):  # type: ignore[misc]
    """``y = min(max(x, low), high)``, with one bound for all values or one for each feature of the last axis.

    The bounds are part of the layer's configuration and are not trained. NaN stays NaN. The gradient is 1
    from ``low`` to ``high`` and 0 outside.

    Args:
        low, high: a number, or an array ``(F,)`` with one bound per feature, such as ``lower_`` and
            ``upper_`` of a fitted `clipwise.data.Clipper`; None, -inf or inf for no bound.
        kwargs: arguments of every Keras layer, such as ``name`` and ``dtype``.

    Warns:
        UserWarning: the two bounds of a feature are equal, so that all of its values become the same. This
            happens if bounds were learned from a column that is mostly constant.

    Raises:
        ArgumentError: a bound is NaN or not a number, low is above high, or they differ in length; an input
            is not floating-point, or its last axis does not fit.

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
        """Check that the number of bounds fits the number of features."""
        for bound in (self._low, self._high):
            if bound.ndim and (not input_shape or input_shape[-1] != len(bound)):
                raise ArgumentError(
                    f"bounds for {len(bound)} features do not fit an input of shape {tuple(input_shape)}"
                )
        super().build(input_shape)

    def call(self, inputs: Any) -> Any:
        """Clip an input of any shape ``(..., F)``, in the layer's dtype."""
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
        """The shape of the input."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Both bounds, None for no bound, and the configuration of every layer."""
        config: dict[str, Any] = super().get_config()
        return config | {"low": _plain(self._low), "high": _plain(self._high)}


def _plain(bound: Any) -> Any:
    """As JSON can hold it."""
    if not bound.ndim:
        return float(bound) if math.isfinite(bound) else None
    return [float(one) if math.isfinite(one) else None for one in bound]
