"""The sources of a run's values: its clippers, and what the user logs."""

from collections.abc import Iterable, Mapping

from clipwise.monitor.store import HELD, is_figure, part_of


def parts_of(source: str, sources: Iterable[str]) -> list[dict[str, str]]:
    """The parts of a source with `clipwise.by_name`: the ``source`` of each and its ``pattern``.

    >>> parts_of("", ["", "by_name/head.*", "critic/by_name/x"])
    [{'source': 'by_name/head.*', 'pattern': 'head.*'}]
    """
    start = part_of(source, "")
    return [{"source": one, "pattern": one.removeprefix(start)} for one in sources if one.startswith(start)]


def reasons_of(names: Iterable[str]) -> list[str]:
    """What may hold the threshold of a source, by the names of its values.

    >>> reasons_of(["clipwise/norm", "clipwise/held/loss", "clipwise/held/history"])
    ['loss', 'history']
    """
    return [name.removeprefix(HELD) for name in names if name.startswith(HELD)]


def logged_of(names: Mapping[str, Iterable[str]]) -> list[tuple[str, str]]:
    """Source and name of all series that do not come from a clipper; the most likely loss first.

    Args:
        names: names by source, in recorded order.

    >>> logged_of({"": ["time", "clipwise/norm", "acc"], "critic": ["clipwise/norm", "loss"]})
    [('critic', 'loss'), ('', 'acc')]
    """
    every = [(source, name) for source, own in names.items() for name in own]
    logged = [(source, name) for source, name in every if name != "time" and not is_figure(name)]
    return sorted(logged, key=_unlikely)


def _unlikely(one: tuple[str, str]) -> int:
    source, name = one
    last = name.rpartition("/")[2].lower()
    return (0 if name == "loss" and not source else 1) if last == "loss" else 2 if "loss" in last else 3
