"""What people say of a run, as JSON and SQLite can keep it."""

import math
from collections.abc import Mapping
from typing import Any


def plain(value: Any) -> Any:
    """Facts in the terms of JSON; what it has no word for, NaN and Inf included, is text.

    >>> plain({("a", 1): [float("nan"), 2.5, None], "b": {1: range(3)}})
    {"('a', 1)": ['nan', 2.5, None], 'b': {'1': 'range(0, 3)'}}
    """
    if isinstance(value, Mapping):
        return {text(str(key)): plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if value is None or isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    return text(str(value))


def text(value: str) -> str:
    r"""Text that every reader can encode: a file name's or command line's bytes need not be Unicode.

    >>> text("train.py \udcff")
    'train.py \\udcff'
    """
    return value.encode("utf-8", "backslashreplace").decode()
