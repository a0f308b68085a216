"""The clippers that a recorder follows: what it hears of each step, and which steps its rules leave out."""

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from clipwise.config.spelling import spelled
from clipwise.errors import ArgumentError
from clipwise.functional.examples.report import ExampleReport
from clipwise.monitor._adam import of_clipper
from clipwise.monitor._alerting import Alerting
from clipwise.monitor._intake import Intake
from clipwise.monitor.store import NORM, UPDATE, Moment
from clipwise.report import ClipReport


class Attached:
    """Follows clippers of PyTorch, in the training's thread.

    Args:
        intake: is handed their steps.
        alerting: whose rules may leave steps out.
        rank: of this process.
        describe: is told the clip of each.
        examples: gradients of single examples have to come before any others.

    Attributes:
        clip_of_examples: the first clip of single examples, in words; None where there is none.
    """

    def __init__(
        self,
        intake: Intake,
        alerting: Alerting,
        rank: int,
        describe: Callable[[Any], None],
        *,
        examples: bool = False,
    ) -> None:
        self._lacks_examples = examples
        self.clip_of_examples: str | None = None
        self._intake, self._alerting, self._rank, self._describe = intake, alerting, rank, describe
        self._names: set[str] = set()
        self._fresh: set[str] = set()  # of whose optimizers nothing is recorded yet
        self._handles: list[Callable[[], None]] = []

    def add(self, source: Any, name: str) -> Any:
        """Follow one more; see `clipwise.Monitor.attach`."""
        follow = getattr(source, "follow", None)
        if follow is None:
            raise ArgumentError(
                "attach takes a clipwise.torch.Clipper, such as clipwise.torch.attach(optimizer, clip), got"
                f" {type(source).__name__}; with Keras use monitor.callback(), with optax"
                " monitor.record(state)"
            )
        from clipwise.torch import PerExample, WeightClipper  # there is a clipper, so it is loaded

        if isinstance(source, PerExample):
            return self._add_examples(source, self.examples(name))
        self.refuse_no_examples()
        weights = source if isinstance(source, WeightClipper) else getattr(source, "weights", None)
        own = name if weights in (source, None) else f"{name}/weights" if name else "weights"
        for one in (name, own):
            self.refuse(one)
        self._names |= {name, own}
        if weights is not None:
            self._handles.append(weights.follow(partial(self._heard_weights, own, source)))
        if weights is not source:
            self._describe(source.clip)
            self._handles.append(follow(partial(self._heard, name)))
            self._fresh.add(name)
            updates = getattr(source, "updates", None)
            if updates is not None:
                self._handles.append(updates.follow(partial(self._heard_updates, name, source)))
            if self._alerting.engine.may_skip:
                self._handles.append(source.veto(partial(self._vetoes, name)))
        return source

    def examples(self, name: str) -> str:
        """The source of the examples of a clipper, of which there are some now."""
        self._lacks_examples = False
        return f"{name}/examples" if name else "examples"

    def refuse_no_examples(self) -> None:
        """ArgumentError where examples are to be named and have no gradients of their own."""
        if self._lacks_examples:
            raise ArgumentError(
                "examples=True names examples by gradients of their own, and nothing here has any: attach"
                " what clipwise.torch.per_example(model, clip) gives, before any clipper, or give record"
                " the reports of JAX or TensorFlow. In a plain loop leave examples=True out, and ask"
                " per_example(model, clip).explain(loss_fn, inputs, targets) about a batch that looks bad"
            )

    def _add_examples(self, source: Any, name: str) -> Any:
        self.refuse(name)
        self._names.add(name)
        # In words that are no clip of a step: of the gradients of a batch it says nothing.
        self.clip_of_examples = self.clip_of_examples or f"{spelled(source.options.clip)} per example"

        def heard(step: int, report: ExampleReport) -> None:
            self._intake.take_examples(step, report, name)

        self._handles.append(source.follow(heard))
        return source

    def refuse(self, name: str) -> None:
        """ArgumentError where a clipper of that name is followed."""
        if name in self._names:
            which = repr(name) if name else "a clipper"
            raise ArgumentError(
                f"{which} is attached already: give each a name of its own, such as"
                ' monitor.attach(clipper, "critic")'
            )

    def end(self) -> None:
        """Follow none any more."""
        for undo in self._handles:
            undo()

    def _heard(self, name: str, clipper: Any, report: ClipReport, loss: Any) -> None:
        """A clipper's step; the loss that it was told, where the user logs none, is recorded with it."""
        if name in self._fresh:
            self._fresh.remove(name)
            self._intake.know_adam(clipper.steps, name, of_clipper(clipper))
        unsaid = loss is not None and not self._intake.said_loss
        self._intake.take(clipper.steps, report, name, (("loss", loss),) if unsaid else ())

    def _heard_weights(self, name: str, clipper: Any, weights: Any, report: ClipReport, loss: Any) -> None:
        """What a clipper did to the weights after its step. How many stand at the bound is not known for
        nothing: it is counted where layers are kept, and once at first, which says that these are weights.
        """
        intake = self._intake
        step = intake.step = clipper.steps
        layers = intake.has_layers(step)
        if layers or not step % intake.every:
            if layers or name not in intake.counts:
                report = weights.report
            intake.take_weights(step, replace(report, tensor_norms=None), name)
        if weights is clipper:  # otherwise its clipper has asked
            intake.stop_if_told()

    def _heard_updates(self, name: str, clipper: Any, updates: Any, report: ClipReport, loss: Any) -> None:
        """What a clipper did to the update of its step, in names of its own: rules speak of gradients."""
        if not clipper.steps % self._intake.every:
            values = tuple([getattr(report, one.removeprefix("update/")) for one in UPDATE])
            self._intake.take_values(clipper.steps, UPDATE, values, name)

    def _vetoes(self, name: str, clipper: Any, norm: float, loss: float | None) -> bool:
        """Whether a rule wants the step left out that a clipper is about to prepare."""
        values = {NORM: norm} | ({} if loss is None else {"loss": loss})
        moment = Moment(clipper.steps + 1, name, values, rank=self._rank, time=time.time())
        bad = self._alerting.engine.skips(moment)
        return bad if clipper.decides_together else self._intake.consensus.any(bad)
