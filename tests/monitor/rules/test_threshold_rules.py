"""ThresholdTooLow and ThresholdNeverBinds: on the thresholds that clips really have over given norms."""

import numpy as np
import pytest

from clipwise import thresholds
from clipwise.monitor.rules import ThresholdNeverBinds, ThresholdTooLow
from clipwise.thresholds import Observation
from tests.monitor.rules.recordings import heard, of

RANDOM = np.random.default_rng(0)
NORMS = np.exp(0.5 * RANDOM.standard_normal(1500))  # around 1


def clipped(norms, policy):
    """What is recorded of a global norm under a policy, or under a number or a list of them."""
    if hasattr(policy, "update"):
        state, limits = policy.init(np, ()), []
        for step, norm in enumerate(norms):
            seen = Observation(norm=np.asarray(norm), step=step)
            limit, state = policy.update(np, state, seen)
            limits.append(float(limit))
    else:
        limits = np.broadcast_to(policy, np.shape(norms)).tolist()
    after = np.minimum(norms, limits)
    return of(
        norm=[float(n) for n in norms],
        norm_after=after.tolist(),
        threshold=limits,
        clip_fraction=[float(n > t) for n, t in zip(norms, limits, strict=True)],
    )


# Too low


def test_a_threshold_far_below_nearly_all_norms():
    [alert] = heard(ThresholdTooLow(), clipped(NORMS, 0.01))
    assert alert.step == 200
    median = np.sort(NORMS[:200])[99]
    p95 = np.sort(NORMS[:200])[189]
    left = np.median(0.01 / NORMS[:200])
    assert alert.seen == (
        "200 of the 200 steps recorded since step 1 hit the threshold (now 0.01), and clipping leaves"
        f" {left:.2g} of the gradient's norm, whose median is {median:.4g}."
    )
    assert f"a global norm of {p95:.4g}, which would have clipped one step in twenty" in alert.advice


@pytest.mark.parametrize(("threshold", "alerts"), [(0.19, 1), (0.21, 0)])
def test_how_much_clipping_may_leave(threshold, alerts):
    assert len(heard(ThresholdTooLow(), clipped(np.ones(300), threshold))) == alerts


@pytest.mark.parametrize(("hits", "alerts"), [(180, 1), (179, 0)])
def test_how_often(hits, alerts):
    norms = np.concatenate([np.full(hits, 1.0), np.full(200 - hits, 0.05)])
    assert len(heard(ThresholdTooLow(), clipped(norms, 0.1))) == alerts


def test_it_speaks_again_once_the_steps_are_forgotten():
    norms = np.concatenate([np.full(200, 1.0), np.full(200, 0.05), np.full(200, 1.0)])
    steps = [a.step for a in heard(ThresholdTooLow(cooldown=250), clipped(norms, 0.1))]
    assert steps == [200, 580]  # 180 of the 200 steps up to 580 hit it


def test_a_schedule_that_falls_too_low():
    falling = np.concatenate([np.linspace(2.0, 0.05, 500), np.full(1000, 0.05)])
    [alert] = heard(ThresholdTooLow(), clipped(NORMS, falling))
    assert 400 < alert.step < 700


@pytest.mark.parametrize(
    "policy",
    [
        thresholds.percentile(10),
        thresholds.percentile(1),
        thresholds.percentile(10, window=50),
        thresholds.mean(0.05),
        thresholds.zscore(),
        thresholds.quantile_ema(quantile=0.05),
        thresholds.auto(),
    ],
    ids=lambda policy: repr(policy)[:40],
)
@pytest.mark.parametrize("scale", [1.0, 1.004, 0.996], ids=["level", "rising", "falling"])
def test_clips_that_learn_are_left_alone(policy, scale):
    norms = NORMS[:500] * scale ** np.arange(500)
    assert heard(ThresholdTooLow(), clipped(norms, policy)) == []


def test_without_clipping_nothing_is_said():
    assert heard(ThresholdTooLow(), clipped(NORMS, np.inf)) == []
    assert heard(ThresholdTooLow(), of(norm=[1.0] * 300)) == []
    moments = of(
        norm=[np.nan] * 300, norm_after=[0.0] * 300, threshold=[0.1] * 300, clip_fraction=[1.0] * 300
    )
    assert heard(ThresholdTooLow(), moments) == []


# Never binds


def test_nothing_clipped_in_a_thousand_steps():
    [alert] = heard(ThresholdNeverBinds(), clipped(NORMS, 100.0))
    assert (alert.step, alert.level) == (1000, "info")
    assert alert.seen == (
        "Nothing was clipped since step 1: the threshold is 100, the largest norm was"
        f" {NORMS[:1000].max():.4g}."
    )


def test_one_clipped_step_is_enough():
    norms = np.full(1999, 1.0)
    norms[999] = 3.0
    assert heard(ThresholdNeverBinds(), clipped(norms, 2.0)) == []
    assert [a.step for a in heard(ThresholdNeverBinds(), clipped([*norms, 1.0], 2.0))] == [2000]


def test_thresholds_that_move_or_are_none_are_not_judged():
    never = np.linspace(100, 99, len(NORMS))
    assert heard(ThresholdNeverBinds(), clipped(NORMS, never)) == []
    assert heard(ThresholdNeverBinds(), clipped(NORMS, np.inf)) == []
    assert heard(ThresholdNeverBinds(window=20), of(norm=[1.0] * 300)) == []
