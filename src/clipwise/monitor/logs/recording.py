"""A log as a recording, for rules and recommendations."""

import math
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clipwise.errors import StoreError
from clipwise.monitor.logs.columns import columns_of
from clipwise.monitor.logs.files import EVENTS, USUAL, Row, read_rows
from clipwise.monitor.store import NORM, Rows, Store, Writer


@dataclass(frozen=True)
class Log:
    """The content of a log.

    Attributes:
        name: name of the file, or of its folder if the file always has the same name.
        rows: norms and losses, by source.
        columns: the columns they come from: ``{"norm": {source: column}, "loss": ..., "step": ...}``.
    """

    name: str
    rows: Sequence[Rows]
    columns: Mapping[str, object]


def read_log(path: str | os.PathLike[str], *, norm: str | None = None, loss: str | None = None) -> Log:
    """Read gradient norms and losses from the log of a training.

    A step that is logged several times, as after resuming from a checkpoint, is read several times. Rows
    without a step belong to the last step before them; if there are no steps, rows are counted.

    Args:
        path: a ``trainer_state.json``, TensorBoard's event files or their folder, a CSV file, a JSON list, or
            a file with one JSON object per line.
        norm, loss: their columns; by default found by their usual names, see `columns_of`.

    Returns:
        A `Log`.

    Raises:
        StoreError: the file or a column does not exist, or no row holds a norm.
        MissingPackageError: reading TensorBoard's files needs tensorboard.

    >>> import json, pathlib, tempfile
    >>> log = pathlib.Path(tempfile.mkdtemp(), "log.jsonl")
    >>> lines = [{"step": step, "loss": 1 / step, "grad_norm": 2.0} for step in (1, 2)]
    >>> _ = log.write_text("\\n".join(map(json.dumps, lines)))
    >>> [(rows.names, rows.data.tolist()) for rows in read_log(log).rows]
    [(('clipwise/norm',), [[1.0, 2.0], [2.0, 2.0]]), (('loss',), [[1.0, 1.0], [2.0, 0.5]])]
    """
    path = Path(path)
    table = read_rows(path)
    names = _of_numbers(table)
    if not names:
        raise StoreError(f"{str(path)!r} holds no numbers")
    columns = columns_of(names, norm, loss)
    steps = _steps(table, columns.step)
    made = []
    for name, by_source in ((NORM, columns.norms), ("loss", columns.losses)):
        for source, column in by_source.items():
            data = _data(table, steps, column, columns.time)
            made.append(Rows("steps", ("time", name)[-data.shape[1] + 1 :], data, source))
    if not any(len(rows.data) for rows in made if NORM in rows.names):
        raise StoreError(f"{str(path)!r} holds no gradient norm")
    found = {"norm": dict(columns.norms), "loss": dict(columns.losses), "step": columns.step}
    return Log(_name(path), tuple(made), found)


@contextmanager
def recorded(log: Log) -> Iterator[Store]:
    """A temporary recording with the run of a log; it exists until the ``with`` block ends."""
    with tempfile.TemporaryDirectory(prefix="clipwise-log-") as folder:
        file = Path(folder, "log.db")
        writer = Writer(file, "log", log.name, facts={"log": log.columns})
        writer.write(log.rows)
        writer.finish()
        with Store(file) as store:
            yield store


def _name(path: Path) -> str:
    path = path.resolve()
    return path.parent.name if path.name in USUAL or path.name.startswith(EVENTS) else path.name


def _of_numbers(table: Sequence[Row]) -> list[str]:
    """Names of the columns that hold at least one number."""
    found: dict[str, bool] = {}
    for row in table:
        for name, value in row.items():
            if not found.get(name):
                found[name] = _number(value) is not None
    return [name for name, is_one in found.items() if is_one]


def _number(value: object) -> float | None:
    """What a cell says: JSON and CSV write NaN and Inf in several ways; no number is None."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None


def _steps(table: Sequence[Row], column: str | None) -> list[int]:
    if column is None:
        return list(range(1, len(table) + 1))
    found, last = [], 0
    for row in table:
        value = _number(row.get(column))
        if value is not None and math.isfinite(value) and value == int(value) and 0 <= value < 2**53:
            last = int(value)
        found.append(last)
    return found


def _data(table: Sequence[Row], steps: Sequence[int], column: str, time: str | None) -> np.ndarray:
    """Step, time where it is known, and value, in the order of the steps."""
    lines = []
    for row, step in zip(table, steps, strict=True):
        value = _number(row.get(column))
        if value is not None:
            when = None if time is None else _number(row.get(time))
            lines.append((step, value) if time is None else (step, 0.0 if when is None else when, value))
    width = 2 if time is None else 3
    data = np.asarray(lines, dtype=np.float64).reshape(-1, width)
    return data[np.argsort(data[:, 0], kind="stable")]
