"""Alerts of spikes say which examples stand out in their batch."""

from dataclasses import replace

import numpy as np
import pytest

from clipwise.functional.examples.report import ExampleReport
from clipwise.monitor import _examples
from clipwise.monitor._examples import ExampleNames
from clipwise.monitor._rows import Examined, Reported
from clipwise.monitor.rules import ExampleSpike
from clipwise.monitor.store import Alert, Moment


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
    names.see(Examined(4, 0.0, report([1.0, 50.0, 2.0, np.nan, 1.5, 2.5], keys=list("abcdef")), "examples"))
    names.see(Examined(5, 0.0, report([1.0, 2.0, 3.0]), "critic/examples"))
    names.see(Examined(6, 0.0, report([]), "examples"))
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
        names.see(Examined(step, 0.0, report([1.0]), "examples"))
    assert names.named(alert("loss_spike", 1)).seen == "Seen."
    assert names.named(alert("loss_spike", 2)).seen != "Seen."


def test_a_clippers_step_has_the_examples_that_came_before_it_whatever_their_number():
    """Two batches of examples, of which only the second has led to a step; then one by its number."""
    names = ExampleNames()
    batches = [report([value, 1.0, 1.0]) for value in (10.0, 20.0, 30.0, 40.0)]
    for step in (1, 2):
        names.see(Examined(step, 0.0, batches[step - 1], "examples"))
    names.see(Reported(1, 0.0, None, examples=batches[1]))
    names.see(Examined(3, 0.0, batches[2], "examples"))
    assert "with 20 in all" in names.named(alert("gradient_spike", 1)).seen
    assert "with 30 in all" in names.named(alert("loss_spike", 2)).seen  # logged before the step
    assert "with 30 in all" in names.named(alert("example_spike", 3, "examples")).seen
    assert names.named(alert("gradient_spike", 3)).seen == "Seen."
    names.see(Reported(2, 0.0, None))  # of a batch without examples
    assert names.named(alert("gradient_spike", 2)).seen == "Seen."
    names.see(Examined(2, 0.0, batches[3], "examples", numbered=True))
    assert "with 40 in all" in names.named(alert("gradient_spike", 2)).seen


@pytest.mark.parametrize(
    ("after", "said"),
    [(90.0, "It was not clipped, and may outweigh"), (1.0, "It was clipped, and counts for 1.")],
)
def test_a_spike_is_said_to_be_clipped_where_it_was(after, said):
    """With a clip by tensor the norm of an example may be above every threshold."""
    watcher = ExampleSpike().watch("examples")
    for step in range(1, 6):
        norms = np.asarray([0.5, 90.0 if step == 5 else 0.6])
        made = replace(
            report(norms), norms_after=np.asarray([0.5, min(norms[1], after)]), threshold=np.asarray(1.0)
        )
        high = watcher.judge(Moment(step, "examples", made.metrics()))
    assert high
    assert watcher.finding().why.startswith(said)
