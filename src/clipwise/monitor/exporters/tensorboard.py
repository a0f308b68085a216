"""Export to TensorBoard: event files, written without TensorFlow or PyTorch."""

import os
import shlex
import socket
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any

from clipwise.monitor.exporters._base import Option, Taken, Tool, as_taken, file_name, vacant
from clipwise.monitor.exporters._steps import Clock, named
from clipwise.monitor.store import Alert, Moment

PATTERN = "events.out.tfevents.*"


class TensorBoard(Tool):
    """Event files in ``folder/<run>``: every series with steps and times, alerts and facts as text.

    The norm of a parameter's gradient is named ``clipwise/norm/<parameter>``. TensorBoard stores float32: NaN
    and Inf are kept, and values beyond 3.4e38 become Inf.

    Args:
        folder: TensorBoard's ``--logdir``.
        taken: what to do if a run of this name exists: ``"number"`` (``<run>-2``), ``"refuse"`` or
            ``"replace"``.

    Attributes:
        place: the folder of the run, once it has begun.

    Raises:
        ArgumentError: ``taken`` has another value.
        MissingPackageError: tensorboard is not installed.
    """

    name = "tensorboard"
    extra = "tensorboard"
    options = MappingProxyType(
        {
            "--out": Option("folder", "the --logdir [runs]"),
            "--force": Option("taken", "replace the event files", ("refuse", "replace")),
        }
    )

    def __init__(self, folder: str | os.PathLike[str] = "runs", *, taken: Taken = "number") -> None:
        self._folder, self._taken = Path(folder), as_taken(taken)
        # The parts that write files as any other program does; EventFileWriter would load TensorFlow.
        self._events = self.load("tensorboard.compat.proto.event_pb2")
        self._records = self.load("tensorboard.summary.writer.record_writer")
        self._text = self.load("tensorboard.plugins.text.metadata")
        self.place: Path | None = None

    def begin(self, run: str, facts: Mapping[str, Any], started: float | None = None) -> None:
        place = vacant(self._folder / file_name(run), self._taken, lambda one: any(one.glob(PATTERN)))
        self._made = [one for one in (place, *place.parents) if not one.exists()]
        place.mkdir(parents=True, exist_ok=True)
        self._before = list(place.glob(PATTERN))
        started = time.time() if started is None else started
        name = f"events.out.tfevents.{int(started):010d}.{socket.gethostname()}.{uuid.uuid4().hex[:8]}"
        self._path = place / name
        self._file = self._records.RecordWriter(self._path.open("xb"))
        self._clock, self._alerts = Clock(started), 0
        self.place = place
        self._add(self._events.Event(wall_time=started, file_version="brain.Event:2"))
        if facts:
            lines = [f"{key}: {value}" for key, value in facts.items()]
            self._say("clipwise/facts", "\n".join(f"    {line}" for line in lines), 0, started)

    def write(self, moments: Sequence[Moment], alerts: Sequence[Alert] = ()) -> None:
        for step in self._clock.steps(moments):
            event = self._events.Event(wall_time=step.time, step=step.step)
            for name, value in named(step).items():
                event.summary.value.add(tag=name, simple_value=value)
            self._add(event)
        for alert in alerts:
            text = f"**{alert.level}: {alert.rule}** (rank {alert.rank})\n\n"
            text += f"{alert.seen} {alert.why} {alert.advice}"
            self._say("clipwise/alerts", text, alert.step, alert.time)
        self._file.flush()

    def close(self, status: str = "finished") -> None:
        if self.place is None or self._file.closed:
            return
        self._file.close()
        if self._taken == "replace":
            for path in self._before:
                path.unlink(missing_ok=True)

    def abandon(self) -> None:
        """Remove what a failed export has written, so that it can be tried again."""
        with suppress(OSError):
            self._file.close()
        self._path.unlink(missing_ok=True)
        for folder in self._made:
            with suppress(OSError):  # there is something else in it
                folder.rmdir()

    def hint(self) -> str:
        return "" if self.place is None else shlex.join(["tensorboard", "--logdir", str(self.place.parent)])

    def _say(self, tag: str, text: str, step: int, when: float) -> None:
        event = self._events.Event(wall_time=when, step=step)
        value = event.summary.value.add(tag=f"{tag}/text_summary")
        value.metadata.CopyFrom(self._text.create_summary_metadata(tag, ""))
        value.tensor.dtype = 7  # DT_STRING
        value.tensor.tensor_shape.dim.add(size=1)
        value.tensor.string_val.append(text.encode())
        self._add(event)

    def _add(self, event: Any) -> None:
        self._file.write(event.SerializeToString())
