"""The recorder: what clipping did in every step, and what the user logs, kept without slowing a step."""

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
    """Records every step into a file, without slowing the step.

    ::

        monitor = clipwise.Monitor("clipwise.db", run="lstm")
        clipper = monitor.attach(clipwise.torch.attach(optimizer, clip, model=model))
        for batch in data:
            ...
            optimizer.step()                    # recorded
            monitor.log(loss=loss)              # of that step

    The step appends what it has, values on the device included, and goes on; a thread reads them and writes
    twice every ``flush`` seconds. Whatever happens to the file, the training goes on: a warning says once
    what is wrong, and the newest rows are kept in memory and written when that is possible. After a crash
    all that is older than ``flush`` seconds is in the file, which `clipwise.monitor.Store` reads.

    Args:
        path: of the recording, made where there is none; one file holds any number of runs, and several
            processes may write into it.
        run: what the run is called; the script and the time unless given. With ``torchrun`` and
            similar launchers all ranks belong to one run.
        every: record each step (1), or each n-th.
        layers_every: the norm of each parameter's gradient at the first and each n-th step, and wherever NaN
            or Inf turned up or the norm is far above those before it; 0: only there.
        flush: seconds after which a step is in the file at the latest.
        facts: anything to be kept with the run; JSON is made of it.
        keep: rows that are kept in memory while the file cannot be written.
        rules: what watches the run, see `clipwise.monitor.rules`; those that suit every training unless
            given, none with ``[]``.
        notify: whom a rule with the action ``"notify"`` tells, as URLs of Apprise (``"mailto://..."``,
            ``"slack://..."``, ``"json://..."``). The rules that are there unless others are given tell them
            of warnings.
        exporters: other tools that get the same, from the process of rank 0; see
            `clipwise.monitor.exporters`.
        examples: alerts of spikes name the examples of the batch whose gradients stand out, by place and key.
            For runs whose examples have gradients of their own, by a `clipwise.torch.per_example` that is
            attached before any clipper, or by its reports, which `record` is given.

    Attributes:
        run: what the run is called.

    Raises:
        ArgumentError: one of these is not allowed.

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
            source: a `clipwise.torch.Clipper`, such as `clipwise.torch.attach` returns, or what
                `clipwise.torch.per_example` does. With Keras use `callback`, with optax `record`.
            name: whose its values are, where several are recorded, as in a GAN: their source in the
                recording. What it does to the weights, if anything, has the source ``"weights"``, or
                ``"critic/weights"`` of a ``"critic"``. What it does to updates is logged with its own values,
                as ``update/norm``, ``update/norm_after``, ``update/threshold``, ``update/clip_fraction``.
                Norms of single examples have the source ``"examples"``, or ``"critic/examples"``.

        Returns:
            The same clipper. Its step raises `TrainingStopped` where a rule with the action ``"stop"`` has
            spoken, and is left out where one with ``"skip"`` finds it bad.

        Raises:
            ArgumentError: it is no clipper, or one of that name is attached already; with ``examples=True``,
                there are no gradients of single examples.
        """
        return self._attached.add(source, name)

    def callback(self, name: str = "") -> Any:
        """A callback for Keras' ``fit``: it records each step of an optimizer with a clip attached.

        Args:
            name: as for `attach`, where several models are trained.
        """
        from clipwise.monitor.sources import keras_callback

        self._attached.refuse_no_examples()
        return keras_callback(self, name)

    @property
    def step(self) -> int:
        """The number of the last step that was recorded, of whichever clipper."""
        return self._intake.step

    def steps_of(self, name: str = "") -> int:
        """The number of the last step that was recorded of a clipper."""
        return self._intake.counts.get(name, 0)

    def record(self, report: Any, *, step: int | None = None, name: str = "") -> None:
        """Record a step: a `ClipReport`, or the state of an optax optimizer with a clip in it.

        Or an `ExampleReport`, of `clipwise.jax.per_example`, of that of TensorFlow, or of a batch that
        `clipwise.torch.PerExample.explain` looked at: its source is that of a `PerExample` that is attached.

        Args:
            report: what was done. It is not read here, so nothing waits.
            step: its number; one more than the last unless given.
            name: as for `attach`.

        Raises:
            ArgumentError: the step is no whole number, or a clipper of that name is attached.
            StateError: there is no report in this state.
            TrainingStopped: a rule with the action ``"stop"`` has spoken.
        """
        of_examples = isinstance(report, ExampleReport)
        name = self._attached.examples(name) if of_examples else name
        self._attached.refuse_no_examples()
        self._attached.refuse(name)
        step = self.steps_of(name) + 1 if step is None else as_step(step)
        if of_examples:
            self._intake.counts[name] = step
            self._intake.take_examples(step, report, name)
        else:
            self._intake.take(step, report, name)

    def log(self, *, step: int | None = None, name: str = "", **values: Any) -> None:
        """Record numbers of your own: ``monitor.log(loss=loss, accuracy=0.9)``.

        Args:
            step: the step that they belong to; the one that was recorded last unless given.
            name: whose they are, where several clippers are recorded: that of `attach`.
            values: numbers, or arrays of one number of any framework; what may be on a device is not read
                here.

        Raises:
            ArgumentError: a value is no number, or is called ``time``; the step is no whole number, or the
                name no text.
        """
        self._intake.log(step, name, values)

    def describe(self, clip: Any) -> None:
        """Say what is done to the gradients; `attach` does."""
        if self._clip is None:
            self._clip = spelled(clip)

    @property
    def stopping(self) -> Alert | None:
        """The alert for which a rule wants the training to stop; `attach` and `record` raise then."""
        return self._alerting.stopping

    @property
    def unwritten(self) -> list[Rows]:
        """What is in memory only, since the file could not be written."""
        return self._flusher.unwritten

    def flush(self) -> bool:
        """Write now, and wait for it; whether all that was recorded is in the file."""
        if os.getpid() != self._pid:
            return False
        return self._flusher.flush()

    def close(self, status: str | None = None) -> None:
        """Write the rest, and say how the run ended.

        Args:
            status: in one word; unless given ``"finished"``, ``"diverged"`` where the loss or the norms broke
                down for good before, or ``"failed"`` where an exception is under way, or is the last that
                nobody caught, and came after this monitor.
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
        self._flusher.close(status or found, note, self._clip, judge=judge)

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
            clip=self._clip,
            facts=self._facts,
        )
