"""What held the thresholds, as reports say it, against the same counted by hand."""

import copy
import pickle

import numpy as np
import pytest
import torch

import clipwise
from clipwise import Clip, thresholds
from clipwise.thresholds import Observation, WithReasons

SIZES = (3, 2, 4)


def gradients():
    """Of ten steps; the last tensor has one in every second step only, and NaN once."""
    rng = np.random.default_rng(0)
    made = [[rng.normal(size=size) for size in SIZES] for _ in range(10)]
    for t in range(0, 10, 2):
        made[t][2] = None
    made[5][2][0] = np.nan
    return made


def reports(clip, losses=None, nonfinite="propagate"):
    parameters = [torch.nn.Parameter(torch.ones(size, dtype=torch.float64)) for size in SIZES]
    clipper = clipwise.torch.Clipper(
        [(f"p{i}", p) for i, p in enumerate(parameters)], clip, nonfinite=nonfinite
    )
    for t, step in enumerate(gradients()):
        for p, g in zip(parameters, step, strict=True):
            p.grad = None if g is None else torch.tensor(g)
        if losses is not None:
            clipper.observe(losses[t])
        yield clipper.clip_()


def shares(report):
    return {reason: float(share) for reason, share in report.held.items()}


@pytest.mark.parametrize("policy", [thresholds.zscore(warmup=3), thresholds.rolling_zscore(window=6)])
def test_each_tensor_has_a_warm_up_of_its_own(policy):
    seen = [0] * len(SIZES)
    for step, report in zip(gradients(), reports(Clip(policy, per="tensor")), strict=True):
        here = [i for i, g in enumerate(step) if g is not None]
        young = sum(seen[i] < 3 for i in here) / len(here)
        assert shares(report) == pytest.approx({"warm-up": young, "history": 1 - young})
        for i in here:
            seen[i] += bool(np.isfinite(step[i]).all())
    assert seen == [10, 10, 4]


def test_other_reasons():
    def last(clip, *told):
        return shares(list(reports(clip, *told))[-1])

    assert last(Clip(thresholds.relative(0.1, eps=1.5), per="tensor")) == pytest.approx(
        {"floor": 1 / 3, "weights": 2 / 3}  # sqrt(2) is below 1.5
    )
    assert last(clipwise.adagc(warmup=20)) == {"warm-up": 1.0, "history": 0.0}
    assert last(Clip(thresholds.mean(1.1), per="global")) == {"start": 0.0, "history": 1.0}
    assert last(clipwise.clip_by_global_norm(1.0)) == last(clipwise.autoclip(10)) == {}
    jumps = clipwise.clip_by_global_norm(thresholds.reduce_on_instability(1.0, 0.1, patience=1, floor=0.1))
    assert last(jumps, [1.0] * 10) == {"start": 1.0, "floor": 0.0, "loss": 0.0}
    assert last(jumps, [1.0] * 9 + [np.nan])["floor"] == 1.0
    both = clipwise.clip_by_global_norm(thresholds.reduce_on_instability(1.0, floor=1.0))
    assert last(both, [1.0] * 10) == {"start": 1.0, "floor": 0.0, "loss": 0.0}  # the first that is counts


def test_of_a_chain_it_is_the_part_with_the_threshold():
    clip = clipwise.chain(
        Clip(thresholds.zscore(z=0.1, warmup=2), per="global"), clipwise.clip_by_global_norm(2.5)
    )
    found = list(reports(clip))
    for report in found:
        own = report.parts["0"]
        least = float(own.threshold) == float(report.threshold)
        wanted = {reason: least * share for reason, share in shares(own).items()}
        assert shares(report) == wanted | {"ceiling": 1.0 - least}
    assert {float(one.threshold) == 2.5 for one in found} == {True, False}


def test_of_parts_it_is_their_share_of_the_tensors():
    clip = clipwise.by_name({"p0": clipwise.zclip(warmup=100), "p2": clipwise.adagc(warmup=1), "*": None})
    *_, first, last = reports(clip)
    assert shares(last) == pytest.approx({"warm-up": 1 / 3, "history": 1 / 3})
    assert shares(first) == pytest.approx({"warm-up": 1 / 2, "history": 0.0})
    assert list(first.parts["p2"].held) == ["warm-up", "history"]


def test_nothing_holds_the_threshold_of_a_step_that_is_left_out():
    found = [shares(one) for one in reports(clipwise.zclip(warmup=2), nonfinite="skip")]
    assert [sum(one.values()) for one in found] == [1.0] * 5 + [0.0] + [1.0] * 4
    spikes = list(reports(clipwise.skip_spikes(0.1, window=4)))
    assert any(one.skipped for one in spikes)
    assert all(sum(shares(one).values()) == 1.0 for one in spikes)


def test_reports_are_copied_and_logged():
    *_, report = reports(clipwise.zclip(warmup=2))
    unread = copy.copy(report)
    for one in (unread, pickle.loads(pickle.dumps(report)), copy.deepcopy(report)):
        assert shares(one) == {"warm-up": 0.0, "history": 1.0}
        assert one.metrics()["clipwise/held/history"] == 1.0


def test_a_rule_of_ones_own_has_no_reasons_of_another():
    class half(thresholds.zscore):
        def update(self, xp, state, seen):
            threshold, state = super().update(xp, state, seen)
            return 0.5 * threshold, state

    plain = list(reports(Clip(thresholds.zscore(warmup=2), per="global")))
    halved = list(reports(Clip(half(warmup=2), per="global")))
    assert [one.held for one in halved] == [{}] * 10
    assert float(halved[-1].threshold) < float(plain[-1].threshold)
    assert WithReasons.of(half()) == ()
    with pytest.raises(NotImplementedError):
        WithReasons().update(np, (), Observation(norm=1.0))


def test_a_step_pays_nothing_for_what_nobody_reads():
    asked = []

    class counted(thresholds.zscore):
        def update_held(self, xp, state, seen):
            threshold, state, conditions = super().update_held(xp, state, seen)
            return threshold, state, lambda: asked.append(None) or conditions()

    *_, report = reports(clipwise.chain(Clip(counted(), per="tensor"), clipwise.clip_by_global_norm(1.0)))
    assert not asked
    assert shares(report) == shares(report)
    assert len(asked) == 1
