"""The recorder: what clipping did in every step, and what the user logs, kept without slowing a step."""

import atexit
import math
import os
import shlex
import sys
import time
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Any

from clipwise.checks import number_where
from clipwise.config.spelling import spelled
from clipwise.errors import ArgumentError, TrainingStopped
from clipwise.functional.examples.report import ExampleReport
from clipwise.monitor._adam import of_clipper
from clipwise.monitor._alerting import Alerting
from clipwise.monitor._consensus import Consensus
from clipwise.monitor._exports import Exports
from clipwise.monitor._flusher import Flusher
from clipwise.monitor._outcome import errors, outcome
from clipwise.monitor._rows import Examined, Item, Logged, Reported
from clipwise.monitor._values import as_number, as_step
from clipwise.monitor._versions import versions
from clipwise.monitor._warning import say
from clipwise.monitor.identity import Identity, identity
from clipwise.monitor.notify import Notifier
from clipwise.monitor.rules import Rule, default_rules
from clipwise.monitor.rules._base import steps
from clipwise.monitor.store import ADAM, NORM, UPDATE, Alert, Moment, Rows, Writer
from clipwise.report import ClipReport


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
        self.step = 0
        self._clip: str | None = None
        self._facts = versions() | dict(facts or {})
        self._counts: dict[str, int] = {}
        self._attached: set[str] = set()
        self._first: set[str] = set()  # whose first step was recorded
        self._fresh: set[str] = set()  # of whose optimizers nothing is recorded yet
        self._said_loss = self._stopped = False
        self._handles: list[Callable[[], None]] = []
        urls = (notify,) if isinstance(notify, str) else tuple(notify)
        self._alerting = Alerting(
            default_rules(notify=bool(urls)) if rules is None else rules,
            Notifier(urls, self.run) if urls else None,
            examples=examples,
        )
        self._lacks_examples = examples
        self._may_stop = self._alerting.engine.may_stop
        self._consensus = Consensus()
        self._queue: deque[Item] = deque()
        self._pid, self._open = os.getpid(), True
        _alive.add(self)
        self._before = errors()
        self._flusher = Flusher(
            self._queue,
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
        follow = getattr(source, "follow", None)
        if follow is None:
            raise ArgumentError(
                "attach takes a clipwise.torch.Clipper, such as clipwise.torch.attach(optimizer, clip), got"
                f" {type(source).__name__}; with Keras use monitor.callback(), with optax"
                " monitor.record(state)"
            )
        from clipwise.torch import PerExample, WeightClipper  # there is a clipper, so it is loaded

        if isinstance(source, PerExample):
            return self._attach_examples(source, _of_examples(name))
        self._refuse_no_examples()
        weights = source if isinstance(source, WeightClipper) else getattr(source, "weights", None)
        own = name if weights in (source, None) else f"{name}/weights" if name else "weights"
        for one in (name, own):
            self._refuse_attached(one)
        self._attached |= {name, own}
        if weights is not None:
            self._handles.append(weights.follow(partial(self._heard_weights, own, source)))
        if weights is not source:
            self.describe(source.clip)
            self._handles.append(follow(partial(self._heard, name)))
            self._fresh.add(name)
            updates = getattr(source, "updates", None)
            if updates is not None:
                self._handles.append(updates.follow(partial(self._heard_updates, name, source)))
            if self._alerting.engine.may_skip:
                self._handles.append(source.veto(partial(self._vetoes, name)))
        return source

    def _attach_examples(self, source: Any, name: str) -> Any:
        self._refuse_attached(name)
        self._attached.add(name)
        self._lacks_examples = False

        def heard(step: int, report: ExampleReport) -> None:
            self.step = max(self.step, step)
            if not step % self.every:
                self._queue.append(Examined(step, time.time(), report, name))
            if self._may_stop:
                self._stop_if_told()

        self._handles.append(source.follow(heard))
        return source

    def callback(self, name: str = "") -> Any:
        """A callback for Keras' ``fit``: it records each step of an optimizer with a clip attached.

        Args:
            name: as for `attach`, where several models are trained.
        """
        from clipwise.monitor.sources import keras_callback

        self._refuse_no_examples()
        return keras_callback(self, name)

    def steps_of(self, name: str = "") -> int:
        """The number of the last step that was recorded of a clipper."""
        return self._counts.get(name, 0)

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
        if isinstance(report, ExampleReport):
            name, self._lacks_examples = _of_examples(name), False
        else:
            self._refuse_no_examples()
        self._refuse_attached(name)
        step = self._counts.get(name, 0) + 1 if step is None else as_step(step)
        if not isinstance(report, ExampleReport):
            self._add(step, report, name)
        elif not step % self.every:
            self._queue.append(Examined(step, time.time(), report, name))
        self._counts[name] = self.step = step
        if self._may_stop:
            self._stop_if_told()

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
        if "time" in values:
            raise ArgumentError("log takes no value called 'time': that of each step is recorded anyway")
        if name.__class__ is not str:  # this is in the step: without a call
            raise ArgumentError(f"name must be that of a clipper, got {name!r}")
        numbers = tuple([as_number(one, value) for one, value in values.items()])
        if step is None:
            step = self.step
        else:
            step = as_step(step)
            self.step = max(self.step, step)
        self._said_loss = self._said_loss or "loss" in values
        self._queue.append(Logged(step, time.time(), tuple(values), numbers, name))

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
        for undo in self._handles:
            undo()
        found, note = outcome(error, self._stopped)
        judge = status is None and found == "finished"
        self._flusher.close(status or found, note, self._clip, judge=judge)

    def __reduce__(self) -> Any:
        raise TypeError(
            "a Monitor writes from the process that made it, so it is neither pickled nor copied: make one in"
            f" each process, as clipwise.Monitor({self.path!r}, run={self.run!r}); processes of one torchrun"
            " then share a run"
        )

    def _after_fork(self) -> None:
        """In a forked process no thread takes what is recorded."""
        self._queue = _Nowhere(self.path)

    def __enter__(self) -> "Monitor":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close(error)

    # In the training's thread.

    def _heard(self, name: str, clipper: Any, report: ClipReport, loss: Any) -> None:
        """A clipper's step; the loss that it was told, where the user logs none, is recorded with it."""
        step = self._counts[name] = self.step = clipper.steps
        if name in self._fresh:
            self._fresh.remove(name)
            self._know_adam(step, name, of_clipper(clipper))
        self._add(step, report, name, () if loss is None or self._said_loss else (("loss", loss),))
        if self._may_stop:
            self._stop_if_told()

    def _heard_weights(self, name: str, clipper: Any, weights: Any, report: ClipReport, loss: Any) -> None:
        """What a clipper did to the weights after its step. How many stand at the bound is not known for
        nothing: it is counted where layers are kept, and once at first, which says that these are weights.
        """
        step = self.step = clipper.steps
        layers = self._has_layers(step)
        if layers or not step % self.every:
            if layers or name not in self._counts:
                report = weights.report
            self._counts[name] = step
            self._queue.append(Reported(step, time.time(), replace(report, tensor_norms=None), name))
        if self._may_stop and weights is clipper:  # otherwise its clipper has asked
            self._stop_if_told()

    def _know_adam(self, step: int, name: str, known: tuple[float, float] | None) -> None:
        if known is not None:
            self._queue.append(Logged(step, time.time(), ADAM, known, name))

    def _heard_updates(self, name: str, clipper: Any, updates: Any, report: ClipReport, loss: Any) -> None:
        """What a clipper did to the update of its step, in names of its own: rules speak of gradients."""
        if not clipper.steps % self.every:
            values = tuple([getattr(report, one.removeprefix("update/")) for one in UPDATE])
            self._queue.append(Logged(clipper.steps, time.time(), UPDATE, values, name))

    def _add(self, step: int, report: Any, name: str, extra: tuple[tuple[str, Any], ...] = ()) -> None:
        layers = self._has_layers(step) or (self.layers_every > 0 and name not in self._first)
        if layers or not step % self.every:
            self._first.add(name)
            if not (isinstance(report, ClipReport) or hasattr(report, "on_host")):
                from clipwise.monitor.sources import report_in

                report = report_in(report)
            self._queue.append(Reported(step, time.time(), report, name, layers, extra))

    def _has_layers(self, step: int) -> bool:
        return self.layers_every > 0 and step % self.layers_every == 0

    def _refuse_attached(self, name: str) -> None:
        if name in self._attached:
            which = repr(name) if name else "a clipper"
            raise ArgumentError(
                f"{which} is attached already: give each a name of its own, such as"
                ' monitor.attach(clipper, "critic")'
            )

    def _refuse_no_examples(self) -> None:
        if self._lacks_examples:
            raise ArgumentError(
                "examples=True names examples by gradients of their own, and nothing here has any: attach"
                " what clipwise.torch.per_example(model, clip) gives, before any clipper, or give record"
                " the reports of JAX or TensorFlow. In a plain loop leave examples=True out, and ask"
                " per_example(model, clip).explain(loss_fn, inputs, targets) about a batch that looks bad"
            )

    def _vetoes(self, name: str, clipper: Any, norm: float, loss: float | None) -> bool:
        """Whether a rule wants the step left out that a clipper is about to prepare."""
        values = {NORM: norm} | ({} if loss is None else {"loss": loss})
        moment = Moment(clipper.steps + 1, name, values, rank=self.rank, time=time.time())
        bad = self._alerting.engine.skips(moment)
        return bad if clipper.decides_together else self._consensus.any(bad)

    def _stop_if_told(self) -> None:
        alert = self._alerting.stopping
        if self._consensus.soon(alert is not None):
            self._stopped = True
            raise TrainingStopped("a rule in another process asks for it" if alert is None else str(alert))

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


def _of_examples(name: str) -> str:
    """The source of the examples of a clipper."""
    return f"{name}/examples" if name else "examples"


class _Nowhere(deque[Item]):
    """Where a forked process appends: it is said once that nothing of it is kept."""

    def __init__(self, path: str) -> None:
        super().__init__(maxlen=0)
        self._path, self._said = path, False

    def append(self, item: Item) -> None:
        if not self._said:
            self._said = True
            say(
                f"this process was forked from the one that records into {self._path!r}: what it logs is not"
                " kept; make a Monitor in it"
            )


_alive: "weakref.WeakSet[Monitor]" = weakref.WeakSet()


def _after_fork() -> None:
    for monitor in list(_alive):
        monitor._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
