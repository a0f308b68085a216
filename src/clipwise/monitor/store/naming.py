"""What the series of a run are called: ``clipwise/norm``, or ``critic/clipwise/norm`` of a named source."""

from collections.abc import Collection, Iterable

__all__ = ["gradients_in", "prefix_of", "sources_in"]

NORM = "clipwise/norm"


def prefix_of(source: str) -> str:
    """What stands before the figures of a source.

    >>> prefix_of(""), prefix_of("critic")
    ('clipwise/', 'critic/clipwise/')
    """
    return f"{source}/clipwise/" if source else "clipwise/"


def sources_in(names: Iterable[str]) -> list[str]:
    """Whose norms are among some names: ``""`` for the usual one without a name.

    >>> sources_in(["time", "critic/clipwise/norm", "critic/loss", "clipwise/norm"])
    ['critic', '']
    """
    return [n.removesuffix(NORM).removesuffix("/") for n in names if n == NORM or n.endswith("/" + NORM)]


def gradients_in(names: Collection[str]) -> list[str]:
    """Those of `sources_in` whose norms are of gradients, and not of weights, some of which are at a bound.

    >>> gradients_in(["clipwise/norm", "weights/clipwise/norm", "weights/clipwise/at_bound"])
    ['']
    """
    there = set(names)
    return [source for source in sources_in(names) if f"{prefix_of(source)}at_bound" not in there]
