"""Results on disk: written to temporary files, then moved into place; earlier results stay until then."""

import csv
import io
import json
import math
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from clipwise.errors import ArgumentError, DataError
from clipwise.files import replacing
from clipwise.lab.compare.advice import next_command
from clipwise.lab.compare.figures import find_target
from clipwise.lab.compare.groups import Group, group
from clipwise.lab.compare.verdict import headline, verdict
from clipwise.lab.record import STEP_COLUMNS, Evaluation, RunRecord
from clipwise.monitor.store.plain import plain

__all__ = ["Results", "check_folder", "interrupted_folder", "load", "save", "steps_csv"]


@dataclass(frozen=True)
class Results:
    """All that a table, picture or page shows for one call of ``clipwise train`` or ``clipwise compare``.

    Attributes:
        name: stem of the files, ``"comparison"`` or ``"training"``.
        records: the runs.
        config_path: the configuration file, as it was given.
        config: its content.
        settings: the same with the options of the command and all defaults filled in.
        command: the whole command, to reproduce it.
        options: its options that a suggested next command should keep.
        target: the given target, or None for the automatic one.
        environment: versions and device.
        going_on: the command that continues an incomplete training; it is then the next command.
    """

    name: str
    records: tuple[RunRecord, ...]
    config_path: str
    config: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    command: str = ""
    options: tuple[str, ...] = ()
    target: float | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    going_on: str = ""

    def the_target(self) -> float | None:
        """The given target, otherwise a value that every good run reached."""
        return find_target(self.records) if self.target is None else self.target

    def groups(self) -> list[Group]:
        return group(self.records, target=self.the_target())

    def next_command(self) -> str:
        return self.going_on or next_command(self.groups(), self.config_path, self.options)

    def to_json(self) -> str:
        """All figures and records as standard JSON; NaN and Infinity become these strings.

        Both lists have the order of the tables: by clip, then by seed as they were run.
        """
        groups = self.groups()
        order = {each.label: index for index, each in enumerate(groups)}
        data = {
            "headline": headline(groups),
            "verdict": verdict(groups),
            "target": self.the_target(),
            "figures": [asdict(run) | {"diverged": run.diverged} for each in groups for run in each.runs],
            "command": self.command,
            "config_path": self.config_path,
            "config": dict(self.config),
            "settings": dict(self.settings),
            "environment": dict(self.environment),
            "records": [asdict(record) for record in sorted(self.records, key=lambda r: order[r.label])],
        }
        lines = (f"{json.dumps(key)}: {_dump(value)}" for key, value in data.items())
        return "{\n" + ",\n".join(lines) + "\n}\n"


def load(path: Path) -> list[RunRecord]:
    """The records of a ``comparison.json`` or ``training.json``, with exact numbers.

    Raises:
        DataError: the file does not exist or is not one of these.
    """
    try:
        records = json.loads(path.read_text(encoding="utf-8"))["records"]
        return [_record(data) for data in records]
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is not a result of clipwise: {error}") from error


def save(folder: Path, files: Mapping[str, str | bytes], *, extra: Sequence[Path] = ()) -> None:
    """Write all files beside their places, then move each into place; other files in the folder stay.

    Args:
        folder: the folder, created if it does not exist.
        files: content by name.
        extra: other files to move into it, written elsewhere on the same disk.

    Raises:
        ArgumentError: the folder cannot be written. Nothing in it was changed.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with ExitStack() as all_written:
            for file, content in files.items():
                part = all_written.enter_context(replacing(folder / file))
                part.write_bytes(content.encode() if isinstance(content, str) else content)
            for path in extra:
                shutil.copyfile(path, all_written.enter_context(replacing(folder / path.name)))
    except OSError as error:
        raise ArgumentError(f"cannot write results to {folder}: {error.strerror or error}") from error


def check_folder(folder: Path) -> None:
    """Refuse a folder that results could not be written to, before hours are spent on a training.

    Raises:
        ArgumentError: the path is a file, or neither it nor the nearest existing parent can be written.
    """
    try:
        folder.stat()
    except FileNotFoundError:
        if folder.is_symlink():
            raise ArgumentError(f"--out: {folder} is a broken link") from None
    except NotADirectoryError:
        pass  # said below, with what is in the way
    except (OSError, ValueError) as error:
        raise ArgumentError(f"--out: {folder}: {getattr(error, 'strerror', error)}") from error
    if folder.exists() and not folder.is_dir():
        raise ArgumentError(f"--out: {folder} is a file; give a folder")
    there = next(
        (p for p in (folder.absolute().parent, *folder.absolute().parent.parents) if p.exists()), None
    )
    for place in (folder, there):
        if place is None or not place.exists():
            continue
        if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
            raise ArgumentError(
                f"--out: cannot write results to {folder}: {place} is not a folder one may write to"
            )


def interrupted_folder(folder: Path) -> Path:
    """The folder for partial results: the given one if it is empty, else ``<name>-interrupted``, numbered."""
    candidate, number = folder, 1
    while candidate.exists() and any(candidate.iterdir()):
        candidate = folder.with_name(f"{folder.name}-interrupted" + (f"-{number}" if number > 1 else ""))
        number += 1
    return candidate


def steps_csv(record: RunRecord) -> str:
    """Every step of one run as CSV."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["step", *STEP_COLUMNS])
    columns = [record.steps[name] for name in STEP_COLUMNS]
    writer.writerows([step, *values] for step, values in enumerate(zip(*columns, strict=True), start=1))
    return out.getvalue()


def _dump(value: Any) -> str:
    return json.dumps(plain(value, _word), allow_nan=False, ensure_ascii=False)


def _word(value: float) -> str:
    """NaN and Infinity as `float` reads them back."""
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _record(data: dict[str, Any]) -> RunRecord:
    steps = {name: [float(v) for v in values] for name, values in data.pop("steps").items()}
    evaluations = [
        Evaluation(e["step"], e["seconds"], {name: float(v) for name, v in e["metrics"].items()})
        for e in data.pop("evaluations")
    ]
    return RunRecord(**data, steps=steps, evaluations=evaluations)
