"""Query parameters of the page, validated: ``?run=1&name=loss&low=10&high=500&buckets=800``."""

import math
from collections.abc import Sequence
from typing import Any, Protocol

from clipwise.errors import ArgumentError

BUCKETS = (16, 4000)


class Query(Protocol):
    """The part of Starlette's ``QueryParams`` that is used."""

    def getlist(self, key: Any) -> list[str]: ...


def number(query: Query, name: str) -> float | None:
    """A finite number, or None if the parameter is missing."""
    given = _last(query, name)
    if given is None:
        return None
    try:
        value = float(given)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ArgumentError(f"{name} must be a finite number, got {given!r}")
    return value


def span(query: Query) -> dict[str, float | None]:
    """``low`` and ``high``."""
    low, high = number(query, "low"), number(query, "high")
    if low is not None and high is not None and low > high:
        raise ArgumentError(f"low must not be above high, got {low:g} and {high:g}")
    return {"low": low, "high": high}


def whole(query: Query, name: str, limits: Sequence[int] | None = None) -> int | None:
    """A whole number, clamped to its limits if there are any."""
    given = _last(query, name)
    if given is None:
        return None
    try:
        value = _whole(given)
    except ValueError:
        raise ArgumentError(f"{name} must be a whole number, got {given!r}") from None
    return value if limits is None else min(max(value, limits[0]), limits[1])


def wholes(query: Query, name: str) -> list[int]:
    """Several whole numbers, at most 32."""
    given = query.getlist(name)
    if len(given) > 32:
        raise ArgumentError(f"at most 32 of {name} at once, got {len(given)}")
    try:
        return [_whole(one) for one in given]
    except ValueError:
        raise ArgumentError(f"{name} must be whole numbers, got {given!r}") from None


def pairs(query: Query, first: str, second: str) -> list[tuple[str, str]]:
    """Two parameters that come in pairs; the first ones are "" if they are missing altogether."""
    many = query.getlist(second)
    given = query.getlist(first) or [""] * len(many)
    if len(given) != len(many):
        raise ArgumentError(f"give a {first} for each {second}, got {len(given)} for {len(many)}")
    return list(zip(given, many, strict=True))


def text(query: Query, name: str) -> str:
    """A string, "" if the parameter is missing."""
    return _last(query, name) or ""


def _last(query: Query, name: str) -> str | None:
    given = query.getlist(name)
    return given[-1] if given else None


def _whole(given: str) -> int:
    if not given.isascii() or not given.removeprefix("-").isdigit() or len(given) > 18:
        raise ValueError
    return int(given)
