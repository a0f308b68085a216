"""The table: in the terminal, as Markdown, and as JSON."""

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from benchmarks.cases import CASES
from benchmarks.goals import MEMORY, NORM_ERROR
from benchmarks.measure import Line

__all__ = ["NOTES", "json_text", "markdown", "rich_table", "summary"]

HEADER = (
    "method",
    "clips",
    "peer",
    "ours",
    "peer/ours",
    "quartiles",
    "pairs",
    "floor",
    "ours/floor",
    "MiB peer, ours",
    "norm off by",
    "goal",
    "reached",
)
GPU_HEADER = "GB/s"

NOTES = (
    "peer/ours: the median over pairs of calls, one right after the other, and its quartiles. 'attach,"
    " overhead': how much longer a step of AdamW takes than without a clip; 'attach, clip + step': against"
    " torch's clip and the step.",
    "floor: the bytes that must move over the bandwidth of memory in the same rounds. 'in cache': the"
    " gradients fit in a cache, which is faster than memory. For attach, ours/floor is of what the step"
    " takes longer than without a clip.",
    f"MiB: what a call needs at its peak beyond what was there; the goal is below {MEMORY >> 20} MiB in every"
    f" row. norm off by: the relative error of the total norm against float64, peer's and ours; the goal is"
    f" {NORM_ERROR:g}.",
)


def cells(line: Line, *, gpu: bool = False) -> tuple[str, ...]:
    """What stands in one line, as `HEADER` has it."""
    times = line.times
    show = _overhead if line.overhead else _times
    first, last = (times.high, times.low) if line.overhead else (times.low, times.high)
    found = [
        line.label,
        "yes" if line.clipped else "no",
        duration(times.peer),
        duration(times.ours),
        show(times.ratio),
        f"{show(first)} {show(last)}",
        str(times.pairs),
        duration(line.floor),
        "in cache" if line.over_floor is None else f"{line.over_floor:.2f}",
        f"{_mebibytes(line.peer_memory)} {_mebibytes(line.memory)}",
        "" if line.error is None else f"{_error(line.peer_error)} {_error(line.error)}",
        str(line.goal),
        "no: " + ", ".join(line.missed) if line.missed else "yes",
    ]
    if gpu:
        found.append(f"{line.bandwidth * 1e-9:.0f}")
    return tuple(found)


def duration(seconds: float) -> str:
    """Three digits and a unit.

    >>> duration(0.0123), duration(4.5e-05)
    ('12.3 ms', '45 µs')
    """
    for factor, unit in ((1e3, "ms"), (1e6, "µs")):
        if abs(seconds) * factor >= 1 or unit == "µs":
            value = seconds * factor
            break
    return f"{value:.0f} {unit}" if abs(value) >= 100 else f"{value:.3g} {unit}"


def _times(ratio: float) -> str:
    return f"{ratio:.2f}x"


def _overhead(ratio: float) -> str:
    return f"{100 / ratio - 100:+.1f}%"


def _mebibytes(count: int | None) -> str:
    if count is None:
        return "?"
    return f"{count / 2**20:.0f}" if count >= 10 << 20 else f"{count / 2**20:.2g}"


def _error(value: float | None) -> str:
    return "–" if value is None else f"{value:.0e}"


def _sections(lines: Sequence[Line]) -> Iterator[tuple[str, list[Line]]]:
    """One section for each case in each dtype, with its heading."""
    for (name, dtype), group in groupby(lines, lambda line: (line.case, line.dtype)):
        case = CASES[name]
        yield f"{case.title}, {len(case.shapes)} tensors, {case.entries:,} entries, {dtype}", list(group)


def rich_table(lines: Sequence[Line], *, gpu: bool = False) -> Table:
    """For the terminal; about 185 characters wide, folded where that is too much."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    for title in (*HEADER, GPU_HEADER) if gpu else HEADER:
        left = title in ("method", "clips", "goal", "reached")
        table.add_column(
            title, justify="left" if left else "right", overflow="fold", no_wrap=title in ("method", "goal")
        )
    for _, section in _sections(lines):
        table.add_section()
        table.add_row(Text(f"{section[0].title}, {section[0].dtype}", style="bold"))
        for line in section:
            values = [Text(value) for value in cells(line, gpu=gpu)]
            values[HEADER.index("reached")].stylize("red" if line.missed else "green")
            values[HEADER.index("peer/ours")].stylize("bold")
            table.add_row(*values)
    return table


def markdown(lines: Sequence[Line], facts: Mapping[str, str], *, gpu: bool = False) -> str:
    """The same table for a file, with the machine's facts before it and the notes after it."""
    header = (*HEADER, GPU_HEADER) if gpu else HEADER
    text = ["# clipwise beside its peers", ""]
    text += [f"- {name}: {value}" for name, value in facts.items()]
    for heading, section in _sections(lines):
        text += ["", f"## {heading}", ""]
        text.append("| " + " | ".join(header) + " |")
        text.append("|" + "|".join(" --- " for _ in header) + "|")
        text += ["| " + " | ".join(cells(line, gpu=gpu)) + " |" for line in section]
    return "\n".join([*text, "", *[f"{note}\n" for note in NOTES], summary(lines), ""])


def summary(lines: Sequence[Line]) -> str:
    """How many lines reach all that they should."""
    short = sum(bool(line.missed) for line in lines)
    return f"{len(lines) - short} of {len(lines)} lines reach their goals."


def json_text(lines: Sequence[Line], facts: Mapping[str, str]) -> str:
    """Everything that was measured, in seconds and bytes."""
    rows: list[dict[str, Any]] = []
    for line in lines:
        row = dataclasses.asdict(line) | {"missed": line.missed}
        rows.append(row)
    return json.dumps({"facts": dict(facts), "lines": rows}, indent=2) + "\n"
