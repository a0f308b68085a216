"""``python -m benchmarks.frameworks``: JAX, TensorFlow and Keras in one run, one table."""

import argparse
import dataclasses
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

from rich.console import Console

from benchmarks.frameworks.rows import EXTRA, SLOWER, Effort, Row, run
from benchmarks.machine import OtherWork, cpu_facts
from benchmarks.sheet import Sheet
from benchmarks.table import duration

WHERE = ("jax", "tensorflow", "keras-tensorflow", "keras-jax", "keras-torch")
CASES = ("gpt2", "resnet50", "small", "lstm")
HEADER = (
    "where",
    "model",
    "what",
    "theirs",
    "ours",
    "ours/theirs",
    "quartiles",
    "learning adds",
    "reached",
)
QUICK = Effort(seconds=0.2, least=3, warm=1)
NOTE = (
    f"ours/theirs: the median over rounds of calls one right after the other; the goal is at most {SLOWER:g}."
    f" 'learning adds': a step of autoclip(10) over one with a number; the goal is at most"
    f" {EXTRA * 1e6:.0f} µs."
)


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.frameworks", description=__doc__)
    add = parser.add_argument
    add("--quick", action="store_true", help="a few rounds of each: to see that all works, not to quote")
    add("--where", action="append", choices=WHERE, help="only there (repeatable)")
    add("--case", action="append", choices=CASES, help="only this model, in JAX and TensorFlow (repeatable)")
    add("--markdown", type=Path, metavar="FILE", help="write the table there as well")
    add("--json", type=Path, metavar="FILE", help="write all figures there")
    add("--rows", action="store_true", help=argparse.SUPPRESS)  # rows as JSON: a process of one back end
    return parser.parse_args(given)


def rows_here(where: str, cases: list[str], effort: Effort) -> Iterator[Row]:
    """The rows of one back end, in this process."""
    if where.startswith("keras-"):
        contests = importlib.import_module("benchmarks.frameworks.on_keras").contests()
    else:
        contests = importlib.import_module(f"benchmarks.frameworks.on_{where}").contests(cases)
    for contest in contests:
        yield run(contest, effort)


def rows_of(where: str, cases: list[str], quick: bool) -> Iterator[Row]:
    """The rows of one back end, in a process of its own: none shares its threads with another."""
    command = [sys.executable, "-m", "benchmarks.frameworks", "--rows", "--where", where]
    command += [word for case in cases for word in ("--case", case)] + (["--quick"] if quick else [])
    environment = os.environ | {"KERAS_BACKEND": where.removeprefix("keras-"), "TF_CPP_MIN_LOG_LEVEL": "3"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        for line in process.stdout:
            yield Row(**json.loads(line))
    if process.returncode:
        raise SystemExit(f"{where}: failed with status {process.returncode}")


def main(given: Sequence[str] | None = None) -> int:
    options = arguments(given)
    cases = options.case or list(CASES)
    if options.rows:
        for row in rows_here(options.where[0], cases, QUICK if options.quick else Effort()):
            print(json.dumps(dataclasses.asdict(row)), flush=True)
        return 0

    other, rows = OtherWork(), []
    with Console(stderr=True).status("") as status:
        for where in options.where or WHERE:
            status.update(f"{where} ...")
            for row in rows_of(where, cases, options.quick):
                rows.append(row)
                status.update(f"{where}: {row.case}, {row.method} done ...")
    facts = cpu_facts(other) | {name: version(name) for name in ("jax", "optax", "keras", "torch")}
    facts.pop("other work meanwhile", None)  # its own processes, one a back end, would count as such
    for distribution in ("tensorflow", "tensorflow-cpu"):
        try:
            facts["tensorflow"] = version(distribution)
        except importlib.metadata.PackageNotFoundError:
            continue
    title = "Clipping in JAX, TensorFlow and Keras beside their own"
    sheet = Sheet(title, facts, HEADER, [_cells(row) for row in rows], (NOTE, _summary(rows)))
    sheet.show()
    sheet.save(options.markdown, options.json, rows)
    return 0


def _cells(row: Row) -> tuple[str, ...]:
    return (
        row.where,
        row.case,
        row.method,
        duration(row.peer),
        duration(row.ours),
        f"{row.ratio:.3f}",
        f"{row.low:.3f} {row.high:.3f}",
        "" if row.extra is None else duration(row.extra),
        "no: " + ", ".join(row.missed) if row.missed else "yes",
    )


def _summary(rows: Sequence[Row]) -> str:
    reached = sum(not row.missed for row in rows)
    return f"{reached} of {len(rows)} rows reach their goals."


if __name__ == "__main__":
    sys.exit(main())
