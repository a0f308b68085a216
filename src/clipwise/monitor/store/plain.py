"""Anything as JSON and SQLite can keep it."""

import math
from collections.abc import Callable, Mapping
from typing import Any


def plain(value: Any, nonfinite: Callable[[float], Any] = str) -> Any:
    """Anything in the terms of JSON; what it has no word for is text.

    Args:
        value: numbers, texts, lists and mappings of them, or anything else.
        nonfinite: what NaN and Inf become.

    >>> plain({("a", 1): [float("nan"), 2.5, None], "b": {1: range(3)}})
    {"('a', 1)": ['nan', 2.5, None], 'b': {'1': 'range(0, 3)'}}
    >>> plain([float("inf"), 1], lambda value: None)
    [None, 1]
    """
    if isinstance(value, Mapping):
        return {text(str(key)): plain(one, nonfinite) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one, nonfinite) for one in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else nonfinite(value)
    if value is None or isinstance(value, int):
        return value
    return text(str(value))


def text(value: str) -> str:
    r"""Text that every reader can encode: a file name's or command line's bytes need not be Unicode.

    >>> text("train.py \udcff")
    'train.py \\udcff'
    """
    return value.encode("utf-8", "backslashreplace").decode()
