"""What is recommended for runs of which the right answer is known."""

import math

import numpy as np
import pytest

from clipwise import auto, autoclip, clip_by_global_norm
from clipwise.monitor.rules import ThresholdTooLow
from clipwise.monitor.suggest import suggest
from clipwise.monitor.suggest._breakdown import breakdown
from clipwise.monitor.suggest._given import Given
from clipwise.monitor.suggest.divergence import diverged
from tests.monitor.rules.recordings import heard, of
from tests.monitor.suggest.series import INF, NAN, falling, noise, recorded, spiked


def said(found, *words):
    text = " ".join(found.reasons)
    return all(word in text for word in words)


# Trainings of examples/, with what comparisons of clips have shown of each.


@pytest.mark.parametrize("name", ["pm25-lstm-none", "shakespeare-lstm-sgd-none"])
def test_a_training_that_explodes_at_once_gets_auto(name):
    norms, losses = recorded(name)
    found = suggest(norms, losses=losses, kind="lstm")
    assert (found.verdict, found.clip, found.threshold) == ("adapt", auto(), None)
    assert said(found, "broke down at step", "learning rate")
    assert said(found, "from the first step on", "from the second")


def test_the_explosion_is_seen_without_losses():
    norms, _ = recorded("pm25-lstm-none")
    found = suggest(norms)
    assert found.clip == auto()
    assert said(found, "broke down at step 7:", "NaN or Inf", "6 norms")


@pytest.mark.parametrize("name", ["fraud-lstm-none", "chatbot-gru-none"])
def test_a_training_that_needs_no_clip_is_told_so(name):
    norms, losses = recorded(name)
    found = suggest(norms, losses=losses)
    assert (found.verdict, found.clip, found.threshold) == ("not needed", None, None)
    assert found.lines == {} == found.builtin
    assert found.headline == "Clipping is not needed."
    assert said(found, "not needed")


def test_a_rough_start_counts_where_nothing_is_known_of_the_loss():
    norms, _ = recorded("chatbot-gru-none")
    found = suggest(norms)
    assert found.verdict == "clip"
    assert said(found, "Nothing is known of the loss")


@pytest.mark.parametrize(
    ("name", "threshold"),
    [("pm25-lstm-clip_by_global_norm(0.25)", 0.25), ("shakespeare-lstm-sgd-clip_by_global_norm(0.1)", 0.1)],
)
def test_a_clip_that_acted_most_of_the_time_is_kept(name, threshold):
    norms, losses = recorded(name)
    found = suggest(norms, losses=losses, thresholds=threshold)
    assert (found.verdict, found.clip) == ("keep", clip_by_global_norm(threshold))
    assert found.candidates[0].name == "in force"
    assert found.candidates[0].clipped == np.count_nonzero(norms > threshold)


# Made up.


ROUGH = np.random.default_rng(0).lognormal(-2.0, 0.1, 400)
ROUGH[2:8] = [3.0, 9.0, 40.0, 12.0, 5.0, 2.0]


def test_a_rough_start_that_the_loss_never_recovers_from():
    """Weights thrown away in the first steps, and a loss that falls from there, but not below its first."""
    losses = np.concatenate([[4.38, 3.65, 5.43], np.linspace(17.0, 5.0, 397)])
    found = suggest(ROUGH, losses=losses)
    assert (found.verdict, found.clip) == ("adapt", auto())
    assert said(found, "the loss never recovered: it began at 4.")
    assert suggest(ROUGH, losses=np.linspace(4.38, 2.0, 400)).verdict == "not needed"


def test_a_clip_that_acted_on_a_rough_start_alone_is_kept():
    found = suggest(ROUGH, losses=np.linspace(4.38, 2.0, 400), thresholds=10.0)
    assert (found.verdict, found.clip, found.threshold) == ("keep", clip_by_global_norm(10.0), 10.0)
    assert said(found, "acted on the large norms of the first 8 steps")


def test_spikes_do_not_lift_the_threshold():
    norms = spiked(size=1e6)  # one in 20: the plain 95th percentile lies on their edge
    found = suggest(norms, losses=falling(200))
    usual = norms[norms < 10 * np.median(norms)]
    assert found.verdict == "clip"
    assert found.threshold == pytest.approx(np.percentile(usual, 95), rel=0.05)
    assert found.threshold == float(f"{found.threshold:.1e}")
    assert found.clip == clip_by_global_norm(found.threshold)
    assert said(found, "10 norms exceed", "10 norms are", "significant digits")


@pytest.mark.parametrize("share", [0.15, 0.3])
def test_nor_do_many_of_them(share):
    norms = noise(400)
    norms[np.random.default_rng(3).choice(400, int(400 * share), replace=False)] *= 1000
    assert suggest(norms).threshold < 3


@pytest.mark.parametrize("tail", [1e4, INF, NAN])
def test_a_late_explosion_leaves_the_threshold_of_before(tail):
    norms = np.concatenate([noise(150), np.full(100, tail)])
    found = suggest(norms)
    assert found.verdict == "clip"
    assert found.threshold == pytest.approx(np.percentile(norms[:150], 95), rel=0.05)
    assert said(found, "step 151:", "150 norms")


def test_an_explosion_that_grows():
    norms = np.concatenate([noise(100), 2.0 ** np.arange(1, 60), [NAN]])
    found = suggest(norms)
    assert found.verdict == "clip"
    assert found.threshold < 5


@pytest.mark.parametrize("factor", [1 / 20, 1 / 8, 8, 20])
def test_norms_that_wander_off_have_no_number(factor):
    norms = noise(400) * np.geomspace(1, factor, 400)
    found = suggest(norms, losses=falling(400))
    assert (found.verdict, found.clip) == ("adapt", auto())
    assert said(found, "fell" if factor < 1 else "rose", "No single number")
    way = found.statistics.drift
    assert (way < 1) == (factor < 1)


def test_there_and_back_is_a_drift_too():
    norms = noise(400) * np.concatenate([np.ones(100), np.full(199, 8.0), [1e3], np.ones(100)])
    found = suggest(norms, losses=falling(400))
    assert found.clip == auto()
    assert said(found, "differ by a factor of", "95 % of those up to ten medians")


def test_norms_that_rise_while_the_loss_falls_are_no_explosion():
    norms = np.concatenate([noise(100), 30 * noise(300)])
    assert said(suggest(norms), "broke down at step 101:", "Only the loss could tell")
    with_losses = suggest(norms, losses=falling(400))
    assert with_losses.clip == auto()
    assert not said(with_losses, "broke down")


def test_chance_is_no_drift():
    for seed in range(60):
        found = suggest(noise(60, spread=1.0, seed=seed))
        assert found.verdict in ("clip", "not needed"), seed


def test_a_loss_that_is_lost_again():
    losses = np.concatenate([falling(300), np.full(100, 3.5)])
    found = suggest(noise(400), losses=losses)
    assert found.verdict == "clip"  # calm norms, but not a run to call healthy
    assert said(found, "broke down at step 301:", "worse for good")


NOISY = {
    "normal": lambda rng, n: rng.normal(size=n),
    "log-normal": lambda rng, n: np.exp(0.5 * rng.normal(size=n)),
    "heavy, falling by 30 %": lambda rng, n: np.exp(0.7 * rng.normal(size=n)) * np.linspace(1.0, 0.7, n),
    "heavier, falling by half": lambda rng, n: np.exp(rng.normal(size=n)) * np.linspace(1.0, 0.5, n),
    "lowest now and then": lambda rng, n: 1.0 - rng.beta(0.5, 3.0, size=n),
    "learning": lambda rng, n: falling(n) + rng.normal(size=n),
    "no progress": lambda rng, n: 0.7 + 0.02 * rng.normal(size=n),
}


@pytest.mark.parametrize(
    ("name", "count"), [("normal", 60), ("log-normal", 60), *((name, 300) for name in NOISY)]
)
def test_a_noisy_loss_is_no_breakdown(name, count):
    """Of 300 healthy runs one in a hundred at the most may be taken for one that broke down."""
    norms, places = np.ones(3), np.zeros(count, dtype=np.int64)
    losses = (NOISY[name](np.random.default_rng(seed), count) for seed in range(300))
    found = [breakdown(Given(norms, one, places)) for one in losses]
    assert sum(one is not None for one in found) <= 3


@pytest.mark.parametrize("name", ["normal", "log-normal"])
def test_a_noisy_loss_that_gets_worse_for_good_is_one(name):
    norms, places = np.ones(3), np.zeros(300, dtype=np.int64)
    lift = np.concatenate([np.zeros(20), np.full(280, 4.0)])
    losses = (lift + NOISY[name](np.random.default_rng(seed), 300) for seed in range(100))
    assert sum(breakdown(Given(norms, one, places)) is not None for one in losses) >= 90


@pytest.mark.parametrize("end", [[1e3] * 6, [1e3, 5.0, math.inf, 1e4, math.nan, 1e5, 1e6, 1e7]])
def test_a_loss_that_blows_up_near_the_end_is_one(end):
    """Too few losses for a level: what compare calls diverged, suggest does not learn from either."""
    losses = np.concatenate([np.linspace(4.0, 2.0, 20), end])
    places = np.arange(len(losses))
    found = breakdown(Given(np.ones(len(losses)), losses, places))
    assert (found.at, found.sign) == (20 if end[1] > 40 else 22, "loss")
    assert found.at == diverged(losses)
    assert breakdown(Given(np.ones(26), losses[:24], places[:24])) is None  # four are no end
    assert breakdown(Given(np.ones(len(losses)), losses, places, kind="gan")) is None


def test_the_loss_of_a_gan_may_rise():
    losses = falling(300, first=1.0, last=5.0)
    assert said(suggest(noise(300), losses=losses), "broke down")
    assert suggest(noise(300), losses=losses, kind="gan").verdict == "not needed"


def test_a_loss_that_ends_in_nan():
    losses = falling(200)
    losses[180:] = NAN
    found = suggest(noise(200), losses=losses)
    assert found.verdict == "clip"
    assert said(found, "step 181:")


@pytest.mark.parametrize("bad", [NAN, INF])
def test_some_nan_and_inf_are_counted_and_left_out(bad):
    norms = spiked()
    without = suggest(norms)
    with_bad = np.insert(norms, [10, 50, 51, 120], bad)
    found = suggest(with_bad)
    assert found.threshold == without.threshold
    assert (found.statistics.nonfinite, found.statistics.count) == (4, 204)
    assert found.statistics.max == norms.max()
    assert said(found, "4 steps of 204 had NaN or Inf")


def test_zeros_are_counted_and_left_out():
    found = suggest(np.insert(spiked(), [0, 0, 77], 0.0))
    assert found.threshold == suggest(spiked()).threshold
    assert found.statistics.zeros == 3
    assert found.statistics.median == np.median(spiked())


def test_nothing_to_judge_by():
    found = suggest([NAN, INF, NAN])
    assert (found.verdict, found.clip, found.candidates) == ("unknown", None, ())
    assert said(found, "no finite norm")
    found = suggest([0.0] * 100)
    assert (found.verdict, found.clip) == ("unknown", None)
    assert said(found, "no gradient reaches")
    assert "broke" not in str(found)


def test_few_norms():
    found = suggest([1.0] * 9, kind="transformer")
    assert (found.verdict, found.clip, found.candidates) == ("adapt", auto(), ())
    assert said(found, "9 norms are too few", "0.25 to 1")
    assert said(suggest([1.0]), "1 norm is too few")
    assert said(suggest([*noise(99), 1e3]), "(1 norm is)")
    assert said(suggest([1.0] * 20), "20 norms only", "13.9 %")  # 1 - 0.05 ** (1 / 20)
    found = suggest([*noise(18), 20.0, 30.0])
    assert found.verdict == "clip"
    assert found.candidates[0].clipped == 3
    assert said(found, "20 norms only", "from 4.2 % to 34.4 %")  # Clopper and Pearson, 3 of 20


def test_how_far_from_what_others_use():
    for scale, word in ((0.01, "below"), (1.0, None), (100.0, "above")):
        found = suggest(scale * spiked(), kind="recurrent")
        assert said(found, f"{word} what is usual") == (word is not None)
        assert {one.kind for one in found.typical} == {"recurrent"}
    assert len({one.kind for one in suggest(spiked()).typical}) == 6
    assert all(one.source for one in suggest(spiked()).typical)


def test_thresholds_in_force():
    norms = spiked()
    low = suggest(norms, thresholds=0.01)  # far below: no reason to keep it
    assert low.threshold == suggest(norms).threshold
    assert said(low, "clipped in 100 % of its steps")
    calm = noise(200)
    assert suggest(calm, thresholds=INF).verdict == "not needed"
    often = suggest(calm, thresholds=float(np.percentile(calm, 80)))
    assert often.verdict == "clip"  # whether it is needed cannot be told
    assert said(often, "cannot be told")
    moving = np.linspace(0.5, 0.7, 200)
    kept = suggest(calm, thresholds=moving)
    assert (kept.verdict, kept.threshold) == ("keep", None)
    assert kept.clip == clip_by_global_norm(0.6)


@pytest.mark.parametrize("early", [3.0, 600.0])
@pytest.mark.parametrize("late", [4.9, 5.1])
def test_a_clip_is_too_low_where_the_rule_says_so(early, late):
    norms = np.concatenate([np.full(300, early), np.full(500, late)])
    ones = np.ones(800)
    moments = of(norm=norms, norm_after=ones, threshold=ones, clip_fraction=ones)
    alerts = heard(ThresholdTooLow(cooldown=0), moments)
    assert (late > 5) == (bool(alerts) and alerts[-1].step == 800)
    found = suggest(norms, thresholds=1.0)
    assert (found.verdict == "keep") == (late < 5)
    assert said(found, "Up to step 400 most norms") == (early == 600.0 and late < 5)


def test_a_run_that_explodes_in_spite_of_a_clip_is_not_told_to_keep_it():
    norms, losses = recorded("pm25-lstm-none")
    assert suggest(norms, losses=losses, thresholds=1.0).clip == auto()


def test_the_order_of_the_norm():
    found = suggest(spiked(), order=INF)
    assert found.clip == clip_by_global_norm(found.threshold, INF)
    assert found.clip != autoclip(10)
    assert said(found, "order inf")


def test_scale_changes_nothing_but_the_number():
    one, other = suggest(spiked()), suggest(spiked() * 2.0**-20)
    assert other.candidates[3].threshold == one.candidates[3].threshold * 2.0**-20
    assert [c.clipped for c in one.candidates[1:]] == [c.clipped for c in other.candidates[1:]]
