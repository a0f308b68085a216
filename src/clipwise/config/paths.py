"""Paths in a configuration, and values as they are shown in messages."""

import itertools
import reprlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from clipwise.errors import ConfigError

__all__ = ["MAX_DEPTH", "MAX_VALUES", "Path", "show"]

MAX_DEPTH = 64
"""Levels a configuration may be nested; far more than anyone writes, far less than Python's own limit."""

MAX_VALUES = 10_000
"""Values that are read of one configuration, each as often as it stands in it: seconds of work at most."""


@dataclass(frozen=True)
class Path:
    """The keys that lead to a value in a configuration.

    >>> print(Path() / "gradient_clipping" / "clips" / "encoder.*" / "threshold")
    gradient_clipping.clips['encoder.*'].threshold
    >>> print(Path() / "clips" / 1)
    clips[1]
    """

    parts: tuple[str | int, ...] = ()
    places: Iterator[int] | None = field(default=None, compare=False, repr=False)
    """Counts the places that were visited from one root on; None where they are not limited."""

    @classmethod
    def to_read(cls) -> "Path":
        """The root of a configuration from outside; the number of values read is limited."""
        return cls(places=itertools.count(1))

    def __truediv__(self, part: str | int) -> "Path":
        if len(self.parts) >= MAX_DEPTH:
            raise Path(self.parts[:4]).error(f"nested deeper than {MAX_DEPTH} levels")
        # A value is visited several times: where it is found, read and checked.
        if self.places is not None and next(self.places) > 10 * MAX_VALUES:
            raise Path(self.parts[:4]).error(f"holds more than {MAX_VALUES:,} values")
        return Path((*self.parts, part), self.places)

    def __str__(self) -> str:
        text = ""
        for part in self.parts:
            if isinstance(part, str) and part.isidentifier():
                text += f".{part}" if text else part
            else:
                text += f"[{show(part)}]"
        return text

    def error(self, message: str) -> ConfigError:
        """The exception for a problem at this path."""
        return ConfigError(f"{self}: {message}" if self.parts else message)


class _Short(reprlib.Repr):
    """``repr`` that stays short and never fails: a value in an error message may be anything."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = 80
        self.maxlevel = 3

    def repr_int(self, value: int, level: int) -> str:
        # Python refuses to print an integer of more than 4300 digits.
        return f"an integer of {value.bit_length()} bits" if value.bit_length() > 200 else repr(value)


show = _Short().repr
"""``repr``, cut to a length that fits a message."""
