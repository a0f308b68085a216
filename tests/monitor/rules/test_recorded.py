"""All rules, as they come, over runs that were recorded: what each says; healthy ones raise nothing."""

import pytest

from clipwise.monitor.rules import Engine, default_rules
from tests.monitor.rules.recordings import by_default, names, recording

UNHEALTHY = {
    # What each must say: the rule, the step, words of the sentence.
    "shakespeare_unclipped": [
        ("gradient_spike", 5, "norm is 49.01 at step 5"),
        ("loss_spike", 10, "loss is 17.69 at step 10"),
    ],
    "pm25_unclipped": [
        ("loss_spike", 7, "loss is 23.8 at step 7, far above the 0.975"),
        ("gradient_spike", 7, "it was not clipped"),
        ("loss_nonfinite", 26, "loss is Inf at step 26; the last finite one was 1.18e+36 at step 25"),
        ("gradient_nonfinite", 28, "first in core.cell.weight_ih_l0 (norm NaN); 4 parameters"),
    ],
    "chatbot_tight": [
        (
            "threshold_too_low",
            200,
            "200 of the 200 steps recorded since step 1 hit the threshold (now 0.001)",
        ),
    ],
    "sigmoids": [
        ("gradient_vanishing", 50, "first layers are 1e+06 times smaller than those of the last at step 50"),
    ],
}
HEALTHY = [name for name in names() if name not in UNHEALTHY]


def test_every_task_of_the_lab_is_among_them():
    assert {"chatbot", "fraud", "pm25", "shakespeare"} <= set(HEALTHY)
    assert set(UNHEALTHY) <= set(names())


@pytest.mark.parametrize("name", HEALTHY)
def test_a_healthy_run_raises_nothing(name):
    moments = recording(name)
    assert len(moments) >= 300
    assert all("loss" in m.values and "clipwise/norm" in m.values for m in moments)
    assert any(m.layers for m in moments)
    assert by_default(moments) == []


@pytest.mark.parametrize("name", UNHEALTHY)
def test_an_unhealthy_run_is_told_by_the_right_rules(name):
    alerts = by_default(recording(name))
    assert [(alert.rule, alert.step) for alert in alerts] == [said[:2] for said in UNHEALTHY[name]]
    for alert, (_, _, words) in zip(alerts, UNHEALTHY[name], strict=True):
        assert words in f"{alert.seen} {alert.why}"
        assert all(part.endswith(".") for part in (alert.seen, alert.why, alert.advice))


@pytest.mark.parametrize("name", ["pm25_unclipped", "sigmoids"])
def test_pieces_of_a_step_say_the_same_as_the_whole(name):
    """Values of the clip, what was logged, and norms of parameters, each in a moment of its own."""
    engine, alerts = Engine(default_rules()), []
    for moment in recording(name):
        own = {n: v for n, v in moment.values.items() if n != "loss"}
        logged = {"loss": moment.values["loss"]}
        for values, layers in ((logged, {}), (own, {}), ({}, moment.layers)):
            if values or layers:
                alerts += engine.see(type(moment)(moment.step, "", values, layers))
    whole = by_default(recording(name))
    assert sorted(a.rule for a in alerts) == sorted(a.rule for a in whole)
    assert {a.rule: a.step for a in alerts} == {a.rule: a.step for a in whole}
