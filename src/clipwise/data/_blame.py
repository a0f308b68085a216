"""Which column of some data is not numbers, and what it holds instead."""

from typing import Any

import numpy as np

__all__ = ["not_numbers"]


def not_numbers(data: Any) -> str | None:
    """A sentence that names the first column holding text, and the text; None if there is no such column."""
    try:
        table = np.asarray(data, dtype=object)
    except ValueError:  # rows of different lengths
        return None
    if table.ndim != 2:
        return None
    names = [str(name) for name in getattr(data, "columns", range(table.shape[1]))]
    for i, name in enumerate(names):
        for row, value in enumerate(table[:, i]):
            if isinstance(value, str) and not _reads(value):
                return f"column {name!r} must be numbers, it holds {value!r} in row {row + 1}"
    return None


def _reads(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
