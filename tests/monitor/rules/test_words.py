"""What rules say counts steps of the training, also where only each tenth is recorded."""

import dataclasses

import pytest

from clipwise.monitor.rules import (
    GradientVanishing,
    Stalled,
    ThresholdNeverBinds,
    ThresholdTooLow,
    UpdateRatio,
)
from tests.monitor.rules.recordings import heard, of


@pytest.mark.parametrize(
    ("rule", "series", "seen"),
    [
        (
            ThresholdNeverBinds(window=100),
            {"norm": [1.0] * 100, "threshold": [2.0] * 100, "clip_fraction": [0.0] * 100},
            "Nothing was clipped since step 10: the threshold is 2, the largest norm was 1.",
        ),
        (
            ThresholdTooLow(window=100),
            {
                "norm": [1.0] * 105,
                "norm_after": [1.0] * 10 + [0.1] * 95,
                "threshold": [0.1] * 105,
                "clip_fraction": [0.0] * 10 + [1.0] * 95,
            },
            "90 of the 100 steps recorded since step 10 hit the threshold (now 0.1), and clipping leaves 0.1"
            " of the gradient's norm, whose median is 1.",
        ),
        (
            Stalled(window=40, patience=1),
            {"loss": [1.0] * 40},
            "The loss has not fallen since step 10: its median was 1 in the first half of that time and 1 in"
            " the second, up to step 400.",
        ),
        (
            UpdateRatio(window=50, patience=3),
            {"update_ratio": [1.0] * 52},
            "A step changes the weights by 1 of their norm (median of steps 30 to 520); around 0.001 is"
            " healthy.",
        ),
        (
            GradientVanishing(window=50, patience=1),
            {"norm": [1.0] * 50 + [1e-6] * 50, "loss": [2.0] * 100},
            "The gradient's norm has fallen to 1e-06 (median of steps 510 to 1,000) from the 1 of the"
            " beginning, while the loss is still 2; it began at 2.",
        ),
    ],
    ids=lambda given: getattr(given, "name", ""),
)
def test_the_steps_that_are_meant(rule, series, seen):
    moments = [dataclasses.replace(moment, step=10 * moment.step) for moment in of(**series)]
    [alert] = heard(rule, moments)
    assert alert.seen == seen
