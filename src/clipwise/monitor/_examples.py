"""Which examples of a batch made a spike: their names, for the alerts of that step."""

import math
from dataclasses import replace

from clipwise.functional.examples.report import ExampleReport
from clipwise.monitor.store import Alert
from clipwise.monitor.wording import show

__all__ = ["ExampleNames"]

RULES = {"loss_spike", "loss_nonfinite", "gradient_spike", "gradient_nonfinite", "example_spike"}
"""Those whose alerts may be about single examples."""
FAR = 3.0
"""How many times the median of its batch the gradient of an example is that stands out."""
MOST, KEEP = 5, 1000
"""Examples that are named; steps that are remembered."""


class ExampleNames:
    """The examples with the largest gradients in the last steps, in words."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, int], str] = {}

    def see(self, step: int, source: str, report: ExampleReport) -> None:
        """Remember a step; this waits for its device."""
        self._known[source, step] = _named(report)
        while len(self._known) > KEEP:
            del self._known[next(iter(self._known))]

    def named(self, alert: Alert) -> Alert:
        """The alert with the examples of its step, where it may be about them and they are known."""
        if alert.rule not in RULES:
            return alert
        own = f"{alert.source}/examples" if alert.source else "examples"
        names = self._known.get((own, alert.step)) or self._known.get((alert.source, alert.step))
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
