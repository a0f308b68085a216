"""Assigns parameters to the clips of a `by_name`."""

import difflib
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from clipwise.clip import ByName
from clipwise.errors import ParameterError

__all__ = ["owner_of", "refuse_unmatched"]


def owner_of(clip: ByName, name: str) -> str | None:
    """The first pattern that matches a parameter's name, or None.

    >>> from clipwise import by_name, clip_by_norm
    >>> owner_of(by_name({"encoder.*": clip_by_norm(1.0), "*": None}), "encoder.weight")
    'encoder.*'
    """
    return next((pattern for pattern, _ in clip.parts if fnmatchcase(name, pattern)), None)


def refuse_unmatched(patterns: Iterable[str], names: Iterable[str], argument: str = "by_name") -> None:
    """Raise for a pattern that matches no name; without any names, raise for none.

    Raises:
        ParameterError: with the argument, the pattern and the nearest names.
    """
    names = list(names)
    for pattern in patterns:
        if names and not any(fnmatchcase(name, pattern) for name in names):
            raise ParameterError(_no_match(argument, pattern, names))


def _no_match(argument: str, pattern: str, names: Sequence[str]) -> str:
    if all(name.rpartition(".")[2].isdigit() for name in names):
        hint = "the parameters have no names here: give model=..., or model.named_parameters()"
    else:
        nearest = difflib.get_close_matches(pattern.strip("*."), names, n=3, cutoff=0.0)
        hint = "the nearest parameters are " + ", ".join(map(repr, nearest))
    return f"{argument}: the pattern {pattern!r} matches no parameter; {hint}"
