"""The warning about bounds that make all values of a feature the same."""

import warnings
from typing import Any

import numpy as np


def warn_of_single_values(low: Any, high: Any) -> None:
    """Warn about each feature whose two bounds are equal; the warning points at the caller's caller.

    Args:
        low, high: each a number or an array ``(F,)``.

    >>> with warnings.catch_warnings(record=True) as caught:
    ...     warn_of_single_values(np.array([0.0, 0.0]), np.array([1.0, 0.0]))
    >>> str(caught[0].message)
    'feature 1: its bounds, 0.0 and 0.0, set all values to 0.0; give others, or leave the feature out'
    """
    lows, highs = np.broadcast_arrays(low, high)
    for i in np.flatnonzero(lows == highs):
        value = float(lows.flat[i])
        which, what = (f"feature {i}: its", "the feature") if lows.ndim else ("the", "them")
        warnings.warn(
            f"{which} bounds, {value!r} and {value!r}, set all values to {value!r}; give others, or leave"
            f" {what} out",
            stacklevel=3,
        )
