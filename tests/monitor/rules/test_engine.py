"""When rules speak: patience, cool-down, several sources, steps that come in pieces, steps to be left out."""

import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import pytest

from clipwise.errors import ArgumentError
from clipwise.monitor.rules import (
    Action,
    Engine,
    Finding,
    GradientNonfinite,
    GradientSpike,
    LossNonfinite,
    LossSpike,
    Moment,
    Rule,
    ThresholdTooLow,
    UpdateRatio,
    Watcher,
    default_rules,
)

NAN, INF = float("nan"), float("inf")


@dataclass(frozen=True, kw_only=True)
class Above(Rule):
    """A rule of somebody's own: bad is x above 0; without x nothing can be told."""

    actions: Sequence[Action] = ("record",)
    name: ClassVar[str] = "above"

    def watch(self, source=""):
        return AboveWatcher(source)


class AboveWatcher(Watcher):
    def __init__(self, source):
        self.source, self.x = source, 0.0

    def judge(self, moment):
        if "x" not in moment.values:
            return None
        self.x = moment.values["x"]
        return self.x > 0

    def finding(self):
        return Finding(f"x{self.source} is {self.x:g}", "why", "advice")


def spoken(rule, values):
    """The steps at which a rule speaks; None: a moment without x."""
    engine = Engine([rule])
    moments = [Moment(i, "", {} if x is None else {"x": x}) for i, x in enumerate(values, 1)]
    return [alert.step for moment in moments for alert in engine.see(moment)]


@pytest.mark.parametrize(
    ("patience", "cooldown", "values", "expected"),
    [
        (1, 0, [0, 1, 1, 0, 1], [2, 3, 5]),
        (3, 0, [1, 1, 0, 1, 1, 1, 1, 0], [6, 7]),
        (3, 0, [1, 1, None, 1, 0], [4]),  # what cannot be judged neither counts nor interrupts
        (1, 3, [1, 1, 1, 1, 1, 1, 1, 1], [1, 4, 7]),
        (1, 3, [1, 0, 0, 1, 0, 1, 1], [1, 4, 7]),
        (2, 4, [1, 1, 1, 1, 1, 0, 1, 1, 1], [2, 8]),
        (1, 1, [1, 1, 1], [1, 2, 3]),
    ],
)
def test_patience_and_cooldown(patience, cooldown, values, expected):
    assert spoken(Above(patience=patience, cooldown=cooldown), values) == expected


def test_a_training_that_begins_anew_is_heard():
    engine = Engine([Above(cooldown=100)])
    assert [len(engine.see(Moment(step, "", {"x": 1.0}))) for step in (900, 950, 1, 50, 101)] == [
        1,
        0,
        1,
        0,
        1,
    ]


def test_an_alert_says_who_saw_it_and_when():
    [alert] = Engine([Above(level="info")]).see(Moment(3, "", {"x": 2.0}, rank=5, time=12.5))
    assert dataclasses.astuple(alert) == ("above", "info", 3, "x is 2", "why", "advice", 5, 12.5, "")


def test_each_source_has_its_own_patience_and_cooldown():
    engine = Engine([GradientNonfinite(patience=2, cooldown=10)])
    steps = []
    for step, (one, other) in enumerate([(1, 0), (0, 1), (1, 1), (1, 0), (0, 0)], 1):
        for source, count in (("a", one), ("b", other)):
            found = engine.see(Moment(step, source, {"clipwise/nonfinite": float(count)}))
            steps += [(alert.step, alert.seen.split(" holds")[0], alert.source) for alert in found]
    assert steps == [(3, "The gradient of b", "b"), (4, "The gradient of a", "a")]


def test_the_layers_of_a_source_are_its_own_also_where_they_come_first():
    engine = Engine([GradientNonfinite()])
    assert engine.see(Moment(1, "critic", {}, {"rnn/kernel": INF})) == []
    assert engine.see(Moment(1, "generator", {}, {"out": 1.0})) == []
    assert engine.see(Moment(1, "generator", {"clipwise/nonfinite": 0.0})) == []
    [alert] = engine.see(Moment(1, "critic", {"clipwise/nonfinite": 1.0}))
    assert alert.seen == "The gradient of critic holds NaN or Inf at step 1, first in rnn/kernel (norm Inf)."


def test_a_source_within_a_source():
    engine = Engine([GradientNonfinite()])
    for source, count, norm in (("gan", 0.0, 1.0), ("gan/critic", 1.0, INF)):
        assert engine.see(Moment(1, source, {"clipwise/nonfinite": 0.0})) == []
        alerts = engine.see(Moment(2, source, {"clipwise/nonfinite": count}, {"w": norm}))
    [alert] = alerts
    assert alert.seen == "The gradient of gan/critic holds NaN or Inf at step 2, first in w (norm Inf)."


def test_a_slash_in_a_parameters_name_is_no_source():
    [alert] = Engine([GradientNonfinite()]).see(
        Moment(1, "", {"clipwise/nonfinite": 1.0}, {"lstm/kernel": NAN})
    )
    assert "first in lstm/kernel" in alert.seen
    assert "gradient holds" in alert.seen


VALUES = Moment(5, "", {"clipwise/nonfinite": 2.0, "clipwise/norm": NAN})
LAYERS = Moment(5, "", {}, {"embed": 0.5, "rnn": NAN, "head": INF})
LOSS = Moment(5, "", {"loss": 1.0})


@pytest.mark.parametrize("order", list(itertools.permutations([VALUES, LAYERS, LOSS])))
def test_pieces_of_a_step_belong_together_in_any_order(order):
    engine = Engine([GradientNonfinite(cooldown=0)])
    engine.see(Moment(4, "", {"clipwise/nonfinite": 0.0, "clipwise/norm": 1.0}))
    alerts = [alert for moment in order for alert in engine.see(moment)]
    alerts += engine.see(Moment(6, "", {"clipwise/nonfinite": 0.0, "clipwise/norm": 1.0}))
    assert [(alert.step, alert.seen) for alert in alerts] == [
        (
            5,
            "The gradient holds NaN or Inf at step 5, first in rnn (norm NaN); 2 parameters are affected.",
        )
    ]
    assert engine.close() == []


def test_layers_that_never_come_are_not_waited_for():
    engine = Engine([GradientNonfinite(cooldown=0, patience=2)])
    bad = [Moment(step, "", {"clipwise/nonfinite": 1.0}) for step in (1, 2)]
    assert engine.see(bad[0]) == []
    assert engine.see(bad[1]) == []
    [alert] = engine.see(Moment(3, "", {"clipwise/nonfinite": 0.0}))
    assert (alert.step, alert.seen) == (2, "The gradient holds NaN or Inf at step 2.")
    assert engine.close() == []


def test_the_last_step_is_judged_at_the_end():
    engine = Engine([GradientNonfinite()])
    assert engine.see(VALUES) == []
    assert [alert.step for alert in engine.close()] == [5]
    assert engine.close() == []


def test_good_steps_between_bad_ones_count():
    engine = Engine([GradientNonfinite(patience=2)])
    steps = [Moment(step, "", {"clipwise/nonfinite": float(step % 2)}) for step in range(1, 20)]
    assert [alert for moment in steps for alert in engine.see(moment)] == []


def test_skipping_asks_for_no_patience_and_leaves_the_rest_undisturbed():
    rules = [LossSpike(actions=("record", "skip"), patience=3), GradientSpike(actions="skip")]
    engine, alone = Engine(rules), Engine(rules)
    assert engine.may_skip
    assert not engine.may_stop
    skipped, heard, expected = [], [], []
    for step in range(1, 101):
        bad = step in (50, 60, 61, 62)
        moment = Moment(step, "", {"loss": 9.0 if bad else 1.0 + step % 7 / 50, "clipwise/norm": 1.0})
        if engine.skips(moment):
            skipped.append(step)
        heard += engine.see(moment)
        expected += alone.see(moment)
    assert skipped == [50, 60, 61, 62]
    assert [alert.step for alert in heard] == [62]
    assert heard == expected


def test_only_rules_that_skip_are_asked():
    engine = Engine([LossNonfinite(), GradientNonfinite(actions=("skip", "stop"))])
    assert engine.may_stop
    assert not engine.skips(Moment(1, "", {"loss": NAN, "clipwise/nonfinite": 0.0}))
    assert engine.skips(Moment(1, "", {"clipwise/nonfinite": 1.0}))
    assert engine.skips(Moment(2, "", {}, {"w": INF}))


def test_rules_by_name():
    engine = Engine(default_rules())
    assert engine.rule("stalled").name == "stalled"
    assert len({rule.name for rule in engine.rules}) == len(engine.rules)
    assert (engine.may_stop, engine.may_skip) == (False, False)
    with pytest.raises(ArgumentError, match=r"no rule 'loss_spkie'\. Did you mean 'loss_spike'"):
        engine.rule("loss_spkie")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Engine([LossSpike(), LossSpike(z=3)]), "two rules are called 'loss_spike'"),
        (lambda: Engine([LossSpike]), "instances such as LossNonfinite"),
        (lambda: LossSpike(patience=0), "patience must be a whole number from 1 on, got 0"),
        (lambda: LossSpike(patience=True), "patience"),
        (lambda: LossSpike(cooldown=-1), "cooldown must be a whole number from 0 on, got -1"),
        (lambda: LossSpike(level="error"), "level must be one of 'info', 'warning', 'critical', got 'error'"),
        (lambda: LossSpike(actions=("record", "wran")), "got 'wran'. Did you mean 'warn'"),
        (lambda: LossSpike(actions=(3,)), "got 3"),
        (lambda: LossSpike(window=5), "window must be a whole number from 30 on, got 5"),
        (lambda: LossSpike(z=NAN), "z must be a number above 0, and finite, got nan"),
        (lambda: GradientSpike(factor=1), "factor must be a number above 1"),
        (lambda: ThresholdTooLow(often=1.5), "often must be a number above 0 and below 1, got 1.5"),
        (lambda: UpdateRatio(low=1.0, high=0.1), "low must be below high=0.1, got 1"),
    ],
)
def test_what_is_not_allowed_is_named(make, words):
    with pytest.raises(ArgumentError, match=words):
        make()


def test_one_action_needs_no_brackets():
    def call(alert):
        pass

    assert LossSpike(actions="stop").actions == ("stop",)
    assert LossSpike(actions=call).actions == (call,)
    assert LossSpike(actions=["notify", call]).actions == ("notify", call)
