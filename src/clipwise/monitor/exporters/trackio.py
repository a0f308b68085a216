"""Export to trackio: a run in its local storage."""

import os
import shlex
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

from clipwise.errors import ArgumentError
from clipwise.monitor.exporters._base import A_RUN_EACH, Option, Tool
from clipwise.monitor.exporters._steps import Clock, named
from clipwise.monitor.store import Alert, Moment

LEVELS = {"info": "info", "warning": "warn", "critical": "error"}


class Trackio(Tool):
    """A trackio run: every series with steps and times, facts as its config, and alerts.

    It is written to the local storage without a server, as trackio's own importers do. NaN and Inf are kept.
    The norm of a parameter's gradient is named ``clipwise/norm/<parameter>``.

    Args:
        project: name of the project.
        folder: folder of the storage; by default ``TRACKIO_DIR`` or trackio's own choice. trackio supports
            one folder per process, which must be set before trackio is imported.

    Attributes:
        place: folder of the storage.

    Raises:
        ArgumentError: trackio was already imported with another folder.
        MissingPackageError: trackio is not installed.
    """

    name = "trackio"
    extra = "trackio"
    options = MappingProxyType(
        {
            "--out": Option("folder", "the folder of its storage [trackio's own choice]"),
            "--project": Option("project", "the project [clipwise]", metavar="NAME"),
        }
    )
    lacks = A_RUN_EACH

    def __init__(self, project: str = "clipwise", *, folder: str | os.PathLike[str] | None = None) -> None:
        before = os.environ.get("TRACKIO_DIR")
        if folder is not None and "trackio" not in sys.modules:
            os.environ["TRACKIO_DIR"] = str(Path(folder).absolute())
        try:
            self.load("trackio")
        finally:
            if before is None:
                os.environ.pop("TRACKIO_DIR", None)
            else:
                os.environ["TRACKIO_DIR"] = before
        self.place = Path(self.load("trackio.utils").TRACKIO_DIR)
        if folder is not None and self.place != Path(folder).absolute():
            raise ArgumentError(
                f"trackio is imported already and keeps its runs in {str(self.place)!r}, not in"
                f" {os.fspath(folder)!r}: set TRACKIO_DIR before"
            )
        self._storage: Any = self.load("trackio.sqlite_storage").SQLiteStorage
        try:
            self._storage.validate_project_name(project)
        except ValueError as error:
            raise ArgumentError(str(error)) from error
        self._project, self._folder = project, folder

    def begin(self, run: str, facts: Mapping[str, Any], started: float | None = None) -> None:
        self._run, self._id = run, uuid.uuid4().hex  # a run of the same name is left alone
        started = time.time() if started is None else started
        self._facts: dict[str, Any] | None = {**facts, "_Created": _when(started)}
        self._clock = Clock(started)

    def write(self, moments: Sequence[Moment], alerts: Sequence[Alert] = ()) -> None:
        steps = self._clock.steps(moments)
        if steps:
            self._storage.bulk_log(
                project=self._project,
                run=self._run,
                run_id=self._id,
                metrics_list=[named(step) for step in steps],
                steps=[step.step for step in steps],
                timestamps=[_when(step.time) for step in steps],
                config=self._facts,
            )
            self._facts = None
        if alerts:
            self._storage.bulk_alert(
                project=self._project,
                run=self._run,
                run_id=self._id,
                titles=[alert.rule for alert in alerts],
                texts=[f"{alert} (rank {alert.rank})" for alert in alerts],
                levels=[LEVELS[alert.level] for alert in alerts],
                steps=[alert.step for alert in alerts],
                timestamps=[_when(alert.time) for alert in alerts],
            )

    def close(self, status: str = "finished") -> None:
        pass  # each call is one transaction

    def hint(self) -> str:
        folder = "TRACKIO_DIR" not in os.environ and self._folder is not None
        return f"TRACKIO_DIR={shlex.quote(str(self.place))} trackio show" if folder else "trackio show"


def _when(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()
