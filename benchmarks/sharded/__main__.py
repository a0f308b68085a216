"""``python -m benchmarks.sharded``: what a clip of a sharded model costs a rank, beside what people use.

Two gloo processes, models spread by ``fully_shard``, gradients of a real backward pass. The calls take turns,
and all ranks begin each together.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.machine import OtherWork, cpu_facts
from benchmarks.sharded.models import CASES, GOAL, RANKS
from benchmarks.sharded.rows import Row, measured
from benchmarks.sheet import Sheet
from benchmarks.table import duration

HEADER = (
    "model",
    "call",
    "time",
    "host",
    "host, peer/ours",
    "quartiles",
    "collectives",
    "bytes",
    "reached",
)
NOTE = (
    "time: of one call, the median on the slower rank. host: for how long its thread computed; peer/ours is"
    " of that, the median over rounds against torch, torchtitan's and Accelerate's way, with the quartiles of"
    f" the lowest. The goal is {GOAL:g}, where gradients are small: to read and write large ones is the"
    " host's work on a CPU, and not on a GPU. collectives, bytes: what a rank gives to them in one call."
)


def _cells(row: Row) -> tuple[str, ...]:
    worst = min(row.ratios.values(), key=lambda one: one[1], default=None)
    return (
        CASES[row.case].title,
        row.call,
        duration(row.seconds),
        duration(row.host),
        "  ".join(f"{middle:.1f}" for _, middle, _ in row.ratios.values()),
        "" if worst is None else f"{worst[0]:.1f} {worst[2]:.1f}",
        str(row.collectives),
        f"{row.bytes:,}",
        "" if not row.ratios else "no: " + ", ".join(row.missed) if row.missed else "yes",
    )


def main(given: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sharded", description=__doc__)
    add = parser.add_argument
    add("--quick", action="store_true", help="a few rounds of each: to see that all works, not to quote")
    add("--case", action="append", choices=list(CASES), help="only this model (repeatable)")
    add("--markdown", type=Path, metavar="FILE", help="write the table there as well")
    add("--json", type=Path, metavar="FILE", help="write all figures there")
    options = parser.parse_args(given)

    other = OtherWork()
    rows = measured(options.case or list(CASES), 3 if options.quick else None)
    facts = cpu_facts(other) | {"torch": torch.__version__, "ranks": f"{RANKS}, one thread each"}
    facts.pop("other work meanwhile", None)  # its own processes would count as such
    title = "A clip of sharded models beside torch's and others'"
    sheet = Sheet(title, facts, HEADER, [_cells(row) for row in rows], (NOTE,))
    sheet.show()
    sheet.save(options.markdown, options.json, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
