"""What the names in a recording belong to: a clipper, or what the user logs."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from clipwise.monitor._rows import FIELDS
from clipwise.monitor.store import prefix_of, sources_in

__all__ = ["Names", "of_source", "sort_out"]


@dataclass(frozen=True)
class Names:
    """The series of a run, sorted.

    Attributes:
        sources: of norms, such as ``("generator", "critic")``; ``("",)`` for the usual single one.
        logged: the rest, in the order of their coming, the one that is most likely the loss first.
    """

    sources: tuple[str, ...]
    logged: tuple[str, ...]


def sort_out(names: Iterable[str]) -> Names:
    """Sources and logged names.

    >>> sort_out(["time", "critic/clipwise/norm", "critic/loss", "clipwise/update_ratio", "clipwise/norm"])
    Names(sources=('', 'critic'), logged=('critic/loss', 'clipwise/update_ratio'))
    """
    names = list(names)
    sources = sources_in(names)
    ours = {prefix_of(source) + field for source in ("", *sources) for field in FIELDS}
    logged = [name for name in names if name != "time" and name not in ours]
    likely = sorted(logged, key=_unlikely)
    return Names(tuple(sorted(sources, key=lambda s: s != "")), tuple(likely))


def of_source(parameters: Sequence[str], source: str, sources: Sequence[str]) -> list[str]:
    """The parameters of one source: their names begin with it.

    >>> names, sources = ["w", "critic/w"], ["", "critic"]
    >>> of_source(names, "critic", sources), of_source(names, "", sources)
    (['critic/w'], ['w'])
    """
    if source:
        return [name for name in parameters if name.startswith(source + "/")]
    others = tuple(other + "/" for other in sources if other)
    return [name for name in parameters if not (others and name.startswith(others))]


def _unlikely(name: str) -> int:
    last = name.rpartition("/")[2].lower()
    return 0 if name == "loss" else 1 if last == "loss" else 2 if "loss" in last else 3
