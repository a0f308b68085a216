"""Rules that watch a training and report problems."""

from dataclasses import replace

from clipwise.monitor.rules._base import Action, Finding, Rule, Watcher
from clipwise.monitor.rules.clip_acts_on_nothing import ClipActsOnNothing
from clipwise.monitor.rules.clip_freezes_adam import ClipFreezesAdam
from clipwise.monitor.rules.engine import Engine
from clipwise.monitor.rules.example_spike import ExampleSpike
from clipwise.monitor.rules.gradient_nonfinite import GradientNonfinite
from clipwise.monitor.rules.gradient_spike import GradientSpike
from clipwise.monitor.rules.gradient_vanishing import GradientVanishing
from clipwise.monitor.rules.loss_nonfinite import LossNonfinite
from clipwise.monitor.rules.loss_spike import LossSpike
from clipwise.monitor.rules.replay import replay
from clipwise.monitor.rules.stalled import Stalled
from clipwise.monitor.rules.threshold_never_binds import ThresholdNeverBinds
from clipwise.monitor.rules.threshold_too_low import ThresholdTooLow
from clipwise.monitor.rules.update_ratio import UpdateRatio
from clipwise.monitor.store import Moment

__all__ = [
    "RULES",
    "Action",
    "ClipActsOnNothing",
    "ClipFreezesAdam",
    "Engine",
    "ExampleSpike",
    "Finding",
    "GradientNonfinite",
    "GradientSpike",
    "GradientVanishing",
    "LossNonfinite",
    "LossSpike",
    "Moment",
    "Rule",
    "Stalled",
    "ThresholdNeverBinds",
    "ThresholdTooLow",
    "UpdateRatio",
    "Watcher",
    "default_rules",
    "replay",
]


RULES: tuple[type[Rule], ...] = (
    LossNonfinite,
    GradientNonfinite,
    LossSpike,
    GradientSpike,
    ExampleSpike,
    GradientVanishing,
    Stalled,
    ThresholdTooLow,
    ThresholdNeverBinds,
    UpdateRatio,
    ClipFreezesAdam,
    ClipActsOnNothing,
)
"""What watches a training unless other rules are given."""


def default_rules(*, notify: bool = False) -> tuple[Rule, ...]:
    """All rules with their default settings.

    Args:
        notify: whether rules with the action ``"warn"`` also get the action ``"notify"``.

    >>> [rule.name for rule in default_rules()][:3]
    ['loss_nonfinite', 'gradient_nonfinite', 'loss_spike']
    """
    rules = tuple(rule() for rule in RULES)
    if not notify:
        return rules
    return tuple(
        replace(rule, actions=(*rule.actions, "notify")) if "warn" in rule.actions else rule for rule in rules
    )
