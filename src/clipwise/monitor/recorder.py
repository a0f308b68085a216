"""The recorder: stores what clipping did in every step, and what the user logs, without slowing the step."""

import atexit
import math
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

from clipwise.checks import number_where
from clipwise.config.spelling import spelled
from clipwise.errors import ArgumentError
from clipwise.functional.examples.report import ExampleReport
from clipwise.monitor._alerting import Alerting
from clipwise.monitor._attached import Attached
from clipwise.monitor._exports import Exports
from clipwise.monitor._flusher import Flusher
from clipwise.monitor._intake import Intake
from clipwise.monitor._outcome import errors, outcome
from clipwise.monitor._values import as_step
from clipwise.monitor._versions import versions
from clipwise.monitor.identity import Identity, identity
from clipwise.monitor.notify import Notifier
from clipwise.monitor.rules import Rule, default_rules
from clipwise.monitor.rules._base import steps
from clipwise.monitor.store import Alert, Rows, Writer


class Monitor:
    """Records every step to a file, without slowing the step.

    ::

        monitor = clipwise.Monitor("clipwise.db", run="lstm")
        clipper = monitor.attach(clipwise.torch.attach(optimizer, clip, model=model))
        for batch in data:
            ...
            optimizer.step()                    # recorded
            monitor.log(loss=loss)              # of that step

    The training thread only queues its values, including those on a device. Another thread reads them and
    writes them twice per ``flush`` seconds. If the file cannot be written, the training continues: a warning
    is given once, and the newest rows are kept in memory and written later if possible. After a crash,
    everything older than ``flush`` seconds is in the file, which `clipwise.monitor.Store` reads.

    Args:
        path: the recording, created if it does not exist. One file holds any number of runs, and several
            processes may write to it.
        run: name of the run; by default the script and the time. With ``torchrun`` and similar launchers all
            ranks belong to one run.
        every: record every step (1), or every n-th.
        layers_every: record the norm of each parameter's gradient in the first and every n-th step, and in
            steps with NaN or Inf or with a norm far above the previous ones. 0: only in the latter.
        flush: the number of seconds after which a step is in the file at the latest.
        facts: any values to store with the run, converted to JSON.
        keep: number of rows kept in memory while the file cannot be written.
        rules: rules that watch the run, see `clipwise.monitor.rules`; by default those that suit every
            training, none with ``[]``.
        notify: addresses to which rules with the action ``"notify"`` send alerts, as URLs of Apprise
            (``"mailto://..."``, ``"slack://..."``, ``"json://..."``). The default rules then send their
            warnings.
        exporters: other tools to which the process of rank 0 exports the run; see
            `clipwise.monitor.exporters`.
        examples: whether alerts of spikes name the examples of the batch with the largest gradients, by index
            and key. Needs per-example gradients: a `clipwise.torch.per_example` that is attached before any
            clipper, or its reports, passed to `record`.

    Attributes:
        run: name of the run.

    Raises:
        ArgumentError: an argument is not allowed.

    >>> import clipwise, tempfile, os
    >>> folder = tempfile.TemporaryDirectory()
    >>> with clipwise.Monitor(os.path.join(folder.name, "runs.db"), run="by hand") as monitor:
    ...     for loss in (0.7, 0.5):
    ...         monitor.log(step=monitor.step + 1, loss=loss)
    >>> with clipwise.monitor.Store(monitor.path) as store:
    ...     store.series(store.run("by hand").id, ["loss"])["loss"].values.tolist()
    [0.7, 0.5]
    """

    def __init__(
        self,
        path: str | os.PathLike[str] = "clipwise.db",
        *,
        run: str | None = None,
        every: int = 1,
        layers_every: int = 10,
        flush: float = 1.0,
        facts: Mapping[str, Any] | None = None,
        keep: int = 100_000,
        rules: Sequence[Rule] | None = None,
        notify: str | Sequence[str] = (),
        exporters: Sequence[Any] = (),
        examples: bool = False,
    ) -> None:
        if not isinstance(examples, bool):
            raise ArgumentError(f"examples must be True or False, got {examples!r}")
        steps("every", every, 1)
        steps("layers_every", layers_every, 0)
        steps("keep", keep, 1)
        number_where("flush", flush, lambda flush: 0 < flush < math.inf, "a number of seconds above 0")
        if run is not None and (not isinstance(run, str) or not run):
            raise ArgumentError(f"run must be a name, got {run!r}")
        self.path = os.fspath(path)
        self._uid, self.run, self.rank = self._identity(run)
        self.every, self.layers_every = every, layers_every
        self._clip: str | None = None
        self._facts = versions() | dict(facts or {})
        urls = (notify,) if isinstance(notify, str) else tuple(notify)
        self._alerting = Alerting(
            default_rules(notify=bool(urls)) if rules is None else rules,
            Notifier(urls, self.run) if urls else None,
            examples=examples,
        )
        self._pid, self._open = os.getpid(), True
        self._before = errors()
        self._intake = Intake(self.path, every, layers_every, self._alerting)
        self._attached = Attached(self._intake, self._alerting, self.rank, self.describe, examples=examples)
        self._flusher = Flusher(
            self._intake.queue,
            self._connect,
            path=self.path,
            interval=float(flush),
            keep=keep,
            rank=self.rank,
            alerting=self._alerting,
            # One process of a run: each would make a run of its own there.
            exports=Exports(exporters if self.rank == 0 else (), self.run, self._facts),
        )
        atexit.register(self.close)

    def _identity(self, run: str | None) -> Identity:
        return identity(run)

    # What the training calls.

    def attach(self, source: Any, name: str = "") -> Any:
        """Record every step of a clipper from now on.

        Args:
            source: a `clipwise.torch.Clipper`, such as the result of `clipwise.torch.attach`, or the result
                of `clipwise.torch.per_example`. With Keras use `callback`, with optax `record`.
            name: name of the clipper if several are recorded, as for a GAN; it becomes the source of the
                values. Clipping of weights has the source ``"weights"``, or ``"critic/weights"`` for a
                ``"critic"``. Clipping of updates is stored with the clipper's own values, as ``update/norm``,
                ``update/norm_after``, ``update/threshold``, ``update/clip_fraction``. Per-example norms have
                the source ``"examples"``, or ``"critic/examples"``.

        Returns:
            The same clipper. Its step raises `TrainingStopped` if a rule with the action ``"stop"`` has
            raised an alert, and is skipped if a rule with ``"skip"`` judges it as bad.

        Raises:
            ArgumentError: the argument is not a clipper, or one of that name is already attached; with
                ``examples=True``, there are no per-example gradients.
        """
        return self._attached.add(source, name)

    def callback(self, name: str = "") -> Any:
        """A callback for Keras' ``fit`` that records each step of an optimizer with an attached clip.

        Args:
            name: as for `attach`, if several models are trained.
        """
        from clipwise.monitor.sources import keras_callback

        self._attached.refuse_no_examples()
        return keras_callback(self, name)

    @property
    def step(self) -> int:
        """The number of the last step that was recorded, of whichever clipper."""
        return self._intake.step

    def steps_of(self, name: str = "") -> int:
        """The number of the last recorded step of a clipper."""
        return self._intake.counts.get(name, 0)

    def record(self, report: Any, *, step: int | None = None, name: str = "") -> None:
        """Record a step: a `ClipReport`, or the state of an optax optimizer with a clip in it.

        Or an `ExampleReport`, of `clipwise.jax.per_example`, of that of TensorFlow, or of a batch that
        `clipwise.torch.PerExample.explain` looked at: its source is that of a `PerExample` that is attached.

        Args:
            report: the report or state. It is not read here, so there is no host-device sync.
            step: number of the step; by default one more than the last. Of examples: that of the clipper's
                step; by default their alerts are those of the clipper's next step.
            name: as for `attach`.

        Raises:
            ArgumentError: the step is not a whole number, or a clipper of that name is attached.
            StateError: the state holds no report.
            TrainingStopped: a rule with the action ``"stop"`` has raised an alert.
        """
        of_examples = isinstance(report, ExampleReport)
        name = self._attached.examples(name) if of_examples else name
        self._attached.refuse_no_examples()
        self._attached.refuse(name)
        numbered = step is not None
        step = self.steps_of(name) + 1 if step is None else as_step(step)
        if of_examples:
            self._intake.counts[name] = step
            self._intake.take_examples(step, report, name, numbered=numbered)
        else:
            self._intake.take(step, report, name)

    def log(self, *, step: int | None = None, name: str = "", **values: Any) -> None:
        """Record numbers of your own: ``monitor.log(loss=loss, accuracy=0.9)``.

        Args:
            step: the step they belong to; by default the last recorded one.
            name: the clipper they belong to, if several are recorded: the name given to `attach`.
            values: numbers, or arrays of one number of any framework. A value that may be on a device is not
                read here.

        Raises:
            ArgumentError: a value is not a number, or is named ``time``; the step is not a whole number, or
                the name is not a string.
        """
        self._intake.log(step, name, values)

    def describe(self, clip: Any) -> None:
        """Store the clip with the run; `attach` does it."""
        if self._clip is None:
            self._clip = spelled(clip)

    def _described(self) -> str | None:
        """The clip of the steps, or else that of their examples."""
        return self._clip or self._attached.clip_of_examples

    @property
    def stopping(self) -> Alert | None:
        """The alert because of which a rule wants to stop the training; `attach` and `record` then raise."""
        return self._alerting.stopping

    @property
    def unwritten(self) -> list[Rows]:
        """Rows that are only in memory because the file could not be written."""
        return self._flusher.unwritten

    def flush(self) -> bool:
        """Write everything now and wait for it; returns whether all that was recorded is in the file."""
        if os.getpid() != self._pid:
            return False
        return self._flusher.flush()

    def close(self, status: str | None = None) -> None:
        """Write the rest, and store how the run ended.

        Args:
            status: one word. By default ``"finished"``; ``"diverged"`` if the loss or the norms had broken
                down for good; ``"failed"`` if an exception is being handled, or is the last uncaught one and
                was raised after this monitor was created.
        """
        error = next((one for one in errors() if one is not None and one not in self._before), None)
        self._close(error, status)

    def _close(self, error: BaseException | None, status: str | None = None) -> None:
        if not self._open or os.getpid() != self._pid:  # a forked process has no part in it
            return
        self._open, self._before = False, ()
        atexit.unregister(self.close)
        self._attached.end()
        found, note = outcome(error, self._intake.stopped)
        judge = status is None and found == "finished"
        self._flusher.close(status or found, note, self._described(), judge=judge)

    def __reduce__(self) -> Any:
        raise TypeError(
            "a Monitor writes from the process that made it, so it is neither pickled nor copied: make one in"
            f" each process, as clipwise.Monitor({self.path!r}, run={self.run!r}); processes of one torchrun"
            " then share a run"
        )

    def __enter__(self) -> "Monitor":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close(error)

    # In the background.

    def _connect(self) -> Writer:
        return Writer(
            self.path,
            self._uid,
            self.run,
            self.rank,
            command=shlex.join(sys.orig_argv),
            clip=self._described(),
            facts=self._facts,
        )
