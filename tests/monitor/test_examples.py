"""Alerts of spikes say which examples stand out in their batch."""

import numpy as np

from clipwise.functional.examples.report import ExampleReport
from clipwise.monitor import _examples
from clipwise.monitor._examples import ExampleNames
from clipwise.monitor.store import Alert


def report(norms, keys=None):
    norms = np.asarray(norms, dtype=float)
    return ExampleReport(
        losses=norms,
        norms=norms,
        norms_after=norms,
        threshold=np.asarray(np.inf),
        tensor_norms=np.stack([norms * 0.6, norms * 0.8], axis=1),
        names=("first", "second"),
        keys=keys,
    )


def alert(rule, step, source=""):
    return Alert(rule, "warning", step, "Seen.", "Why.", "Advice.", source=source)


def test_the_examples_that_stand_out_are_named():
    names = ExampleNames()
    names.see(4, "examples", report([1.0, 50.0, 2.0, np.nan, 1.5, 2.5], keys=list("abcdef")))
    names.see(5, "critic/examples", report([1.0, 2.0, 3.0]))
    names.see(6, "examples", report([]))
    said = names.named(alert("loss_spike", 4)).seen
    assert said == (
        "Seen. Of its batch, whose median norm is 2, stand out: example 3 (key d), with NaN in all, most of"
        " it in first; example 1 (key b), with 50 in all, most of it in second."
    )
    said = names.named(alert("gradient_spike", 5, "critic")).seen
    assert said == "Seen. No example of its batch stands out: the largest norm is 3, the median 2."
    # Of another step, source or kind, and of a batch without any.
    for other in (alert("loss_spike", 5), alert("stalled", 4), alert("loss_spike", 6)):
        assert names.named(other) == other


def test_only_the_last_steps_are_remembered(monkeypatch):
    monkeypatch.setattr(_examples, "KEEP", 2)
    names = ExampleNames()
    for step in (1, 2, 3):
        names.see(step, "examples", report([1.0]))
    assert names.named(alert("loss_spike", 1)).seen == "Seen."
    assert names.named(alert("loss_spike", 2)).seen != "Seen."
