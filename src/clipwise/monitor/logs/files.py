"""Reads the log files of trainers as rows: one mapping from column to value each."""

import ast
import csv
import json
import os
import re
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from clipwise.errors import StoreError
from clipwise.extras import load

Row: TypeAlias = Mapping[str, Any]

EVENTS = "events.out.tfevents."
"""How the names of TensorBoard's files begin."""
STEP, TIME = "step", "time"

USUAL = ("trainer_state.json", "metrics.csv", "wandb-history.jsonl")
"""What is looked for in a folder, beside TensorBoard's files."""
TAKEN = (
    "a trainer_state.json of the Hugging Face Trainer, TensorBoard's event files, a CSV file, or one JSON"
    " object a line"
)

_CHECKPOINT = re.compile(r"checkpoint-(\d+)")
_OBJECT = re.compile(r"\{.*\}")
_FLOATS = {1: ("<f4", "float_val"), 2: ("<f8", "double_val")}
"""DT_FLOAT and DT_DOUBLE of a TensorProto."""


def read_rows(path: str | os.PathLike[str]) -> list[Row]:
    """The rows of a log, in order.

    Args:
        path: a log file, or a folder with a log of a known name.

    Raises:
        StoreError: the file does not exist, or is not a log.
        MissingPackageError: reading TensorBoard's files needs tensorboard.
    """
    file = _file(Path(path))
    try:
        if file.is_dir() or file.name.startswith(EVENTS):
            return list(_events(file))
        return list(_reader(file)(file))
    except UnicodeDecodeError as error:
        raise StoreError(f"{str(file)!r} is not text; expected {TAKEN}{_hint(file)}") from error
    except (ValueError, csv.Error, RecursionError) as error:
        raise StoreError(f"{str(file)!r} cannot be read as a log ({error}); expected {TAKEN}") from error


def _hint(file: Path) -> str:
    if file.suffix == ".wandb":
        return "; of a run of W&B save run.history(samples=10**9).to_csv(...), from wandb.Api()"
    if file.suffix in (".db", ".sqlite"):
        return "; a recording is named by --db"
    return ""


def _file(path: Path) -> Path:
    if path.is_file():
        return path
    if not path.is_dir():
        raise StoreError(
            f"there is no file {str(path)!r}" if not path.exists() else f"{str(path)!r} is no file"
        )
    for name in USUAL:
        if (path / name).is_file():
            return path / name
    checkpoints = [
        (int(found[1]), one) for one in path.iterdir() if (found := _CHECKPOINT.fullmatch(one.name))
    ]
    for _, folder in sorted(checkpoints, reverse=True):
        if (folder / USUAL[0]).is_file():
            return folder / USUAL[0]
    if any(path.glob(f"{EVENTS}*")):
        return path
    raise StoreError(f"the folder {str(path)!r} holds no log with a known name: name the file")


def _reader(file: Path) -> Callable[[Path], Iterable[Row]]:
    kind = file.suffix.lower()
    if kind in (".csv", ".tsv"):
        return _csv
    return _json if kind == ".json" else _lines


def _csv(file: Path) -> Iterator[Row]:
    with file.open(encoding="utf-8-sig", newline="") as text:
        reader = csv.DictReader(text, dialect="excel-tab" if file.suffix.lower() == ".tsv" else "excel")
        if len(set(reader.fieldnames or ())) < len(reader.fieldnames or ()):
            raise ValueError("two columns have the same name")
        yield from ({name: value for name, value in row.items() if name and value} for row in reader)


def _json(file: Path) -> Iterable[Row]:
    text = file.read_text(encoding="utf-8-sig")
    try:
        content = json.loads(text)
    except json.JSONDecodeError:
        return list(_lines(file))  # one object a line in spite of the name
    if isinstance(content, dict):
        content = content.get("log_history", content)
    if (
        isinstance(content, dict)
        and content
        and all(isinstance(one, dict | list) for one in content.values())
    ):
        content = _turned(content)  # a table by columns, as pandas writes it
    if isinstance(content, dict):
        content = [content]
    if not isinstance(content, list) or not all(isinstance(row, dict) for row in content):
        raise ValueError("it holds no list of objects")
    return content


def _turned(columns: Mapping[str, Any]) -> list[Row]:
    """Rows of a table that is written column by column."""
    rows: dict[str, dict[str, Any]] = {}
    for name, values in columns.items():
        pairs = values.items() if isinstance(values, dict) else enumerate(values)
        for key, value in pairs:
            rows.setdefault(str(key), {})[name] = value
    return list(rows.values())


def _lines(file: Path) -> Iterator[Row]:
    """One object a line, as JSON or as Python prints a dict; lines without one are passed over."""
    found = False
    with file.open(encoding="utf-8-sig") as text:
        for line in text:
            row = _object(line)
            if row is not None:
                found = True
                yield row
    if not found:
        raise ValueError("no line holds a JSON object")


def _object(line: str) -> Row | None:
    match = _OBJECT.search(line)
    if match is None:
        return None
    for parse in (json.loads, ast.literal_eval):
        try:
            found = parse(match[0])
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
        if isinstance(found, dict):
            return {str(name): value for name, value in found.items()}
    return None


def _events(place: Path) -> Iterator[Row]:
    """The scalars of TensorBoard's files, one a row."""
    purpose, extra = "reading TensorBoard's files", "tensorboard"
    event = load("tensorboard.compat.proto.event_pb2", purpose=purpose, extra=extra).Event
    for file in sorted(place.glob(f"{EVENTS}*")) if place.is_dir() else [place]:
        for record in _records(file):
            one = event.FromString(record)
            for value in one.summary.value:
                row = {STEP: one.step, TIME: one.wall_time}
                if value.HasField("simple_value"):
                    yield row | {value.tag: value.simple_value}
                elif value.tensor.dtype in _FLOATS and not value.tensor.tensor_shape.dim:
                    yield row | {value.tag: _scalar(value.tensor)}


def _scalar(tensor: Any) -> float:
    """Of a TensorProto, 0-d."""
    dtype, values = _FLOATS[tensor.dtype]
    if tensor.tensor_content:
        return float(np.frombuffer(tensor.tensor_content, dtype)[0])
    return float(next(iter(getattr(tensor, values)), 0.0))


def _records(file: Path) -> Iterator[bytes]:
    """The records of a TFRecord file: their length, its checksum, the data, its checksum.

    The last one may be cut off, where a training is still writing.
    """
    crc = load("tensorboard.summary.writer.record_writer", purpose="", extra="tensorboard").masked_crc32c
    with file.open("rb") as source:
        while len(header := source.read(12)) == 12:
            length, check = struct.unpack("<QI", header)
            if crc(header[:8]) != check:
                raise ValueError(f"{file.name!r} is damaged, or no event file")
            record = source.read(length)
            if len(record) < length or len(source.read(4)) < 4:
                return
            yield record
