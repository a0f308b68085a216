"""Which examples of a batch made a spike: their names, for the alerts of that step."""

import math
from dataclasses import replace

from clipwise.functional.examples.report import ExampleReport
from clipwise.monitor._rows import Examined, Item, Reported
from clipwise.monitor.store import Alert
from clipwise.monitor.wording import show

__all__ = ["ExampleNames"]

RULES = {"loss_spike", "loss_nonfinite", "gradient_spike", "gradient_nonfinite", "example_spike"}
"""Those whose alerts may be about single examples."""
FAR = 3.0
"""How many times the median of its batch the gradient of an example is that stands out."""
MOST, KEEP = 5, 2000
"""Examples that are named; steps that are remembered, of clippers and of examples."""


class ExampleNames:
    """The examples with the largest gradients in the last steps, in words.

    Examples and the clipper of their batch count by themselves, and apart where a step is not taken, or one
    of them alone was resumed. So a clipper's step has the examples that came last before it.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[str, int], str] = {}
        self._coming: dict[str, str] = {}  # by clipper: those of the step that it has not taken yet
        self._steps: dict[str, int] = {}  # by clipper: its last step

    def see(self, item: Item) -> None:
        """Remember a step; this waits for its device."""
        if isinstance(item, Examined):
            clipper, names = item.source.rpartition("/")[0], _named(item.report)
            self._keep(item.source, item.step, names)
            if item.numbered:
                self._keep(clipper, item.step, names)
            else:
                self._coming[clipper] = names
        elif isinstance(item, Reported):
            self._steps[item.source] = item.step
            self._coming.pop(item.source, None)
            if item.examples is not None:
                self._keep(item.source, item.step, _named(item.examples))

    def _keep(self, source: str, step: int, names: str) -> None:
        self._known[source, step] = names
        while len(self._known) > KEEP:
            del self._known[next(iter(self._known))]

    def named(self, alert: Alert) -> Alert:
        """The alert with the examples of its step, where it may be about them and they are known."""
        if alert.rule not in RULES:
            return alert
        source, step = alert.source, alert.step
        names = self._known.get((source, step))
        if names is None and source not in self._steps:  # of no clipper: its own count is the only one
            names = self._known.get((f"{source}/examples" if source else "examples", step))
        elif names is None and step == self._steps[source] + 1:  # a loss that was logged before the step
            names = self._coming.get(source)
        return replace(alert, seen=f"{alert.seen} {names}") if names else alert


def _named(report: ExampleReport) -> str:
    if not len(report):
        return ""
    usual = report.quantiles((0.5,))[0.5]
    places, examples = report.places(MOST), report.examples(MOST)
    far = [
        f"{place if report.keys is None else f'{place} (key {key})'}, with {show(norm)} in all, most of it in"
        f" {parameter}"
        for place, (key, norm, parameter) in zip(places, examples, strict=True)
        if not math.isfinite(norm) or norm > FAR * usual
    ]
    if not far:
        largest = show(examples[0][1])
        return f"No example of its batch stands out: the largest norm is {largest}, the median {show(usual)}."
    return f"Of its batch, whose median norm is {show(usual)}, stand out: example {'; example '.join(far)}."
