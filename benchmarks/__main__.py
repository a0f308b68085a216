"""``python -m benchmarks``: every case in one run, one table."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.cases import CASES, make
from benchmarks.floors import Yardstick
from benchmarks.machine import OtherWork, busy_cores, facts
from benchmarks.measure import DTYPES, Effort, Line, measure
from benchmarks.methods import METHODS
from benchmarks.table import NOTES, json_text, markdown, rich_table, summary
from benchmarks.timing import clock_for

FULL = Effort(seconds=1.2, least=5, warm=1, repeats=2)
QUICK = Effort(seconds=0.1, least=2, warm=1, repeats=1)
WIDTH = 190
"""Of the table where it goes into a file or a pipe."""
_TORCH = {"fp32": torch.float32, "bf16": torch.bfloat16}


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """What the command line asks for; ``case``, ``method`` and ``dtype`` may be given several times."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="clipwise beside its peers")
    add = parser.add_argument
    add("--quick", action="store_true", help="a few rounds of each: to see that all works, not to quote")
    add("--case", action="append", choices=list(CASES), help="only this model (repeatable)")
    add("--method", action="append", choices=list(METHODS), help="only this way of clipping (repeatable)")
    add("--dtype", action="append", choices=DTYPES, help="only this dtype (repeatable)")
    add("--device", choices=("cpu", "cuda"), default="cpu")
    add("--threads", type=int, default=min(2, os.cpu_count() or 1), help="threads of the CPU (%(default)s)")
    add("--busy", type=int, default=0, metavar="N", help="keep so many cores busy meanwhile (%(default)s)")
    add("--markdown", type=Path, metavar="FILE", help="write the table there as well")
    add("--json", type=Path, metavar="FILE", help="write everything that was measured there")
    found = parser.parse_args(given)
    if found.threads < 1:
        parser.error(f"--threads must be at least 1, got {found.threads}")
    if found.busy < 0:
        parser.error(f"--busy must be at least 0, got {found.busy}")
    if found.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch finds no GPU here")
    return found


def main(given: Sequence[str] | None = None) -> int:
    options = arguments(given)
    with busy_cores(options.busy):
        return run(options)


def run(options: argparse.Namespace) -> int:
    torch.set_num_threads(options.threads)
    device, gpu = torch.device(options.device), options.device == "cuda"
    cases, methods = options.case or list(CASES), options.method or list(METHODS)
    dtypes = options.dtype or list(DTYPES)
    effort = QUICK if options.quick else FULL

    other = OtherWork()
    yardstick = Yardstick(device)
    bandwidth = yardstick.measure(clock_for(device))
    lines: list[Line] = []
    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()]
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=2 * len(cases) * len(dtypes) * len(methods))
        for name in cases:
            for dtype in dtypes:
                progress.update(task, description=f"{CASES[name].title}, {dtype}: making gradients")
                problem = make(CASES[name], _TORCH[dtype], device)
                for method in methods:
                    for clipped in (False, True):
                        what = f"{CASES[name].title}, {dtype}: {method}, {'' if clipped else 'not '}clipped"
                        progress.update(task, description=what)
                        lines += measure(
                            problem, method, clipped, effort, yardstick, bandwidth, options.busy > 0
                        )
                        progress.advance(task)

    found = facts(device, bandwidth, other)
    if options.busy:
        found |= {"cores": f"{os.cpu_count()}, kept busy by {options.busy} other processes"}
    console = Console() if sys.stdout.isatty() else Console(width=WIDTH)
    for name, value in found.items():
        console.print(f"{name}: {value}", highlight=False)
    console.print(rich_table(lines, gpu=gpu))
    for note in NOTES:
        console.print(note, style="dim", highlight=False)
    console.print(summary(lines), style="bold", highlight=False)
    if options.markdown:
        options.markdown.write_text(markdown(lines, found, gpu=gpu), encoding="utf-8")
    if options.json:
        options.json.write_text(json_text(lines, found), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
