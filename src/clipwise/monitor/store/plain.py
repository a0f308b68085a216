"""Any value in a form that JSON and SQLite can store."""

import math
from collections.abc import Callable, Mapping
from typing import Any


def plain(value: Any, nonfinite: Callable[[float], Any] = str) -> Any:
    """Any value in the types of JSON; values of other types become text.

    Args:
        value: numbers, strings, lists and mappings of them, or anything else.
        nonfinite: replaces NaN and Inf.

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
    r"""Text that can be encoded as UTF-8, although the bytes of a file name or a command line may not be.

    >>> text("train.py \udcff")
    'train.py \\udcff'
    """
    return value.encode("utf-8", "backslashreplace").decode()
