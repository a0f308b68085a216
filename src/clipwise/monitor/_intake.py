"""What the training hands over: which steps and layers are kept, and whether it is told to stop."""

import time
from collections import deque
from collections.abc import Mapping
from typing import Any

from clipwise.errors import ArgumentError, TrainingStopped
from clipwise.functional.examples.report import ExampleReport
from clipwise.monitor._alerting import Alerting
from clipwise.monitor._consensus import Consensus
from clipwise.monitor._forked import alive
from clipwise.monitor._rows import Examined, Item, Logged, Reported
from clipwise.monitor._values import as_number, as_step
from clipwise.monitor.store import ADAM
from clipwise.report import ClipReport


class Intake:
    """Appends to a queue, in the training's thread; nothing is read here, so nothing waits for a device.

    Args:
        path: of the recording, for messages.
        every, layers_every: as in `clipwise.Monitor`.
        alerting: whose rules may stop the training.

    Attributes:
        queue: what is to be written.
        step: the number of the last step, of whichever source.
        counts: by source: the number of its last step.
        consensus: what all processes decide together.
        said_loss: whether the user logs the loss.
        stopped: whether the training was stopped by a rule.
    """

    def __init__(self, path: str, every: int, layers_every: int, alerting: Alerting) -> None:
        self.path = path
        self.every, self.layers_every = every, layers_every
        self.queue: deque[Item] = deque()
        self.step = 0
        self.counts: dict[str, int] = {}
        self.consensus = Consensus()
        self.said_loss = self.stopped = False
        self._first: set[str] = set()  # whose first step was recorded
        self._examples: dict[str, ExampleReport] = {}  # by clipper: of the batch of its coming step
        self._alerting = alerting
        self._may_stop = alerting.engine.may_stop
        alive.add(self)

    def take(self, step: int, report: Any, name: str, extra: tuple[tuple[str, Any], ...] = ()) -> None:
        """A step of a source, with further values by name.

        Raises:
            StateError: the report is the state of an optimizer, and there is none in it.
            TrainingStopped: a rule with the action ``"stop"`` has spoken.
        """
        examples = self._examples.pop(name, None)
        layers = self.has_layers(step) or (self.layers_every > 0 and name not in self._first)
        if layers or not step % self.every:
            self._first.add(name)
            if not (isinstance(report, ClipReport) or hasattr(report, "on_host")):
                from clipwise.monitor.sources import report_in

                report = report_in(report)
            self.queue.append(Reported(step, time.time(), report, name, layers, extra, examples))
        self.counts[name] = self.step = step
        self.stop_if_told()

    def take_weights(self, step: int, report: ClipReport, name: str) -> None:
        """A step of a clip of weights, which is to be kept; layers are those of gradients."""
        self.counts[name] = step
        self.queue.append(Reported(step, time.time(), report, name))

    def take_examples(self, step: int, report: ExampleReport, name: str, *, numbered: bool = False) -> None:
        """A step that clipped the gradient of each example; ``numbered`` as in `Examined`.

        Raises:
            TrainingStopped: a rule with the action ``"stop"`` has spoken.
        """
        clipper = name.rpartition("/")[0]
        if numbered or clipper not in self.counts:
            self.step = max(self.step, step)
        else:  # what is logged now is of the step that the clipper of the batch is about to take
            self.step = self.counts[clipper] + 1
        if not numbered:
            self._examples[clipper] = report
        if not step % self.every:
            self.queue.append(Examined(step, time.time(), report, name, numbered))
        self.stop_if_told()

    def take_values(self, step: int, names: tuple[str, ...], values: tuple[Any, ...], name: str) -> None:
        """Further values of a source."""
        self.queue.append(Logged(step, time.time(), names, values, name))

    def log(self, step: int | None, name: str, values: Mapping[str, Any]) -> None:
        """What the user has to say; see `clipwise.Monitor.log`."""
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
        self.said_loss = self.said_loss or "loss" in values
        self.queue.append(Logged(step, time.time(), tuple(values), numbers, name))

    def know_adam(self, step: int, name: str, known: tuple[float, float] | None) -> None:
        """What is kept once of the optimizer of a source, where it is Adam or alike."""
        if known is not None:
            self.take_values(step, ADAM, known, name)

    def has_layers(self, step: int) -> bool:
        """Whether the norm of each parameter is kept of this step."""
        return self.layers_every > 0 and step % self.layers_every == 0

    def stop_if_told(self) -> None:
        """TrainingStopped where a rule with the action ``"stop"`` has spoken, in any process."""
        if not self._may_stop:
            return
        alert = self._alerting.stopping
        if self.consensus.soon(alert is not None):
            self.stopped = True
            raise TrainingStopped("a rule in another process asks for it" if alert is None else str(alert))
