"""Which column of some data is not numbers, and what it holds instead."""

from datetime import date, time, timedelta
from typing import Any

import numpy as np


def temporal_column(data: Any) -> str | None:
    """A sentence that names the first column of dates, times or durations by type; None if there is none.

    To scikit-learn they are numbers, and a missing one is a very small one.
    """
    width = data.shape[1] if len(getattr(data, "shape", ())) == 2 else 1
    types: list[Any] = list(data.dtypes) if _is_frame(data) else [getattr(data, "dtype", None)] * width
    for name, dtype in zip(_names(data, len(types)), types, strict=True):
        if getattr(dtype, "kind", "") in ("m", "M") or (
            hasattr(dtype, "is_temporal") and dtype.is_temporal()
        ):
            return f"column {name!r} must be numbers, it is of type {dtype}"
    return None


def non_numeric_value(data: Any) -> str | None:
    """A sentence that names the first column holding text or a time, and which; None if there is none."""
    try:
        table = np.asarray(data, dtype=object)
    except ValueError:  # rows of different lengths
        return None
    if table.ndim != 2:
        return None
    for i, name in enumerate(_names(data, table.shape[1])):
        for row, value in enumerate(table[:, i]):
            if isinstance(value, date | time | timedelta) or (isinstance(value, str) and not _reads(value)):
                return f"column {name!r} must be numbers, it holds {value!r} in row {row + 1}"
    return None


def _names(data: Any, width: int) -> list[str]:
    return [str(name) for name in (data.columns if _is_frame(data) else range(width))]


def _is_frame(data: Any) -> bool:
    return hasattr(data, "columns") and hasattr(data, "dtypes")


def _reads(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
