"""What holds of every rule, those that are added later included."""

import math
from pathlib import Path

import numpy as np
import pytest

from clipwise.monitor.rules import RULES, Engine, Moment, default_rules
from clipwise.monitor.store import AT_BOUND, FIELDS

DOCS = Path(__file__).parents[3] / "docs" / "alerts.md"
ODD = (math.nan, math.inf, -math.inf, 0.0, 5e-324, 1.7e308, -1.0)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_it_is_called_after_its_file_and_in_the_docs(rule):
    assert rule.__module__ == f"clipwise.monitor.rules.{rule.name}"
    assert f"| `{rule.__name__}` `{rule.name}` |" in DOCS.read_text(encoding="utf-8")
    assert rule.__doc__
    assert [one.name for one in default_rules()].count(rule.name) == 1


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_it_tells_nothing_from_nothing(rule):
    engine = Engine([rule()])
    assert [engine.see(Moment(step, "", {})) for step in range(200)] == [[]] * 200
    assert not rule(actions="skip").watch().judge(Moment(1, "", {"accuracy": 0.5}))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_whatever_the_numbers_are_it_speaks_in_sentences(rule):
    rng = np.random.default_rng(0)
    names = (*sorted({*FIELDS} - {AT_BOUND}), "clipwise/update_ratio", "loss", "val_loss")
    engine = Engine([rule(patience=1, cooldown=0)])
    alerts = []
    for step in range(1, 2500):
        odd, there = rng.random(len(names)) < 0.02, rng.random(len(names)) < 0.9
        values = np.where(odd, rng.choice(ODD, len(names)), rng.lognormal(0, 3, len(names))).tolist()
        shown = {name: value for name, value, is_there in zip(names, values, there, strict=True) if is_there}
        layers = dict(zip("abcdefgh", rng.lognormal(0, 20, 8).tolist(), strict=True))
        alerts += engine.see(Moment(step, "critic", shown, {} if step % 10 else layers))
    for alert in alerts + engine.close():
        assert (alert.rule, alert.source) == (rule.name, "critic")
        for sentence in (alert.seen, alert.why, alert.advice):
            assert sentence[0].isupper()
            assert sentence.endswith(".")
