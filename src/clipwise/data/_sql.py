"""What DuckDB is told, as text: names, values, bounds in the type of a column."""

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import numpy as np

from clipwise.data._bounds import in_float, whole

__all__ = ["FLOATS", "clipped", "ends_in", "name", "one_file", "step_of", "struct", "text"]

FLOATS: dict[str, type[np.floating[Any]]] = {"FLOAT": np.float32, "DOUBLE": np.float64}
INTEGERS = {"TINYINT": 8, "SMALLINT": 16, "INTEGER": 32, "BIGINT": 64}


def name(column: str) -> str:
    """A column.

    >>> print(name('a"b'))
    "a""b"
    """
    return '"' + column.replace('"', '""') + '"'


def text(value: str) -> str:
    """A string."""
    return "'" + value.replace("'", "''") + "'"


def struct(values: Mapping[str, bytes]) -> str:
    """Bytes by name."""
    return "{" + ", ".join(f"{text(key)}: unhex('{value.hex()}')" for key, value in values.items()) + "}"


def one_file(path: str) -> str:
    """The path of one file, whatever characters it has."""
    return text(re.sub(r"([*?\[])", r"[\1]", path))


def ends_in(kind: str, column: str, low: float, high: float) -> tuple[str | None, str | None]:
    """The bounds of a column in its type, None where there is none.

    >>> ends_in("DECIMAL(10,2)", "price", 1.005, float("inf"))
    ("CAST('1.01' AS DECIMAL(10,2))", None)
    """
    scale = 0
    ends: tuple[float | None, float | None]
    if kind in FLOATS:
        ends = in_float(column, low, high, FLOATS[kind])
    else:
        least, most, scale = _steps(kind)
        ends = whole(column, low, high, least, most, scale)
    # Read from text, as a literal with a point would be a decimal first.
    first, last = (None if end is None else f"CAST('{_shifted(end, scale)}' AS {kind})" for end in ends)
    return first, last


def step_of(kind: str) -> float | None:
    """How far apart the numbers of a type are; None for floating-point numbers."""
    return None if kind in FLOATS else 10.0 ** -_steps(kind)[2]


def clipped(column: str, low: str | None, high: str | None, is_float: bool) -> str:
    """A column within `ends_in` its type."""
    cases = [f"WHEN isnan({column}) THEN {column}"] if is_float else []  # above every number to DuckDB
    cases += [] if low is None else [f"WHEN {column} < {low} THEN {low}"]
    cases += [] if high is None else [f"WHEN {column} > {high} THEN {high}"]
    return f"CASE {' '.join(cases)} ELSE {column} END" if low or high else column


def _shifted(end: float, scale: int) -> str:
    return f"{Decimal(f'{end}e-{scale}'):f}" if scale else repr(end)


def _steps(kind: str) -> tuple[int, int, int]:
    """A type of whole numbers or decimals: from how many steps to how many, each of ``10**-scale``."""
    decimal = re.fullmatch(r"DECIMAL\((\d+),(\d+)\)", kind)
    if decimal:
        precision, scale = map(int, decimal.groups())
        return 1 - 10**precision, 10**precision - 1, scale
    bits = INTEGERS[kind.removeprefix("U")]
    return (0, 2**bits - 1, 0) if kind[0] == "U" else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1, 0)
