"""LossNonfinite, LossSpike, Stalled: on series whose outcome is known."""

import numpy as np
import pytest

from clipwise.monitor.rules import LossNonfinite, LossSpike, Moment, Stalled
from tests.monitor.rules.recordings import heard, of

NAN, INF = float("nan"), float("inf")


def noise(count, size, seed=0):
    return size * np.random.default_rng(seed).standard_normal(count)


# NaN and Inf


@pytest.mark.parametrize(("value", "word"), [(NAN, "NaN"), (INF, "Inf"), (-INF, "-Inf")])
def test_a_loss_that_is_no_number(value, word):
    [alert] = heard(LossNonfinite(), of(loss=[2.0, 1.5, value, value]))
    assert (alert.step, alert.level) == (3, "critical")
    assert alert.seen == f"The loss is {word} at step 3; the last finite one was 1.5 at step 2."


@pytest.mark.parametrize("name", ["val_loss", "train_loss", "train/loss", "loss/total", "critic/loss"])
def test_other_losses_count_too(name):
    assert len(heard(LossNonfinite(), [Moment(1, "", {name: NAN})])) == 1


@pytest.mark.parametrize("name", ["accuracy", "lossless", "perplexity", "clipwise/threshold", "loss_scale"])
def test_what_is_no_loss_does_not_count(name):
    assert heard(LossNonfinite(), [Moment(1, "", {name: NAN, "loss": 1.0})]) == []


def test_huge_is_not_infinite():
    assert heard(LossNonfinite(), of(loss=[1e308, -1e308, 5e-324, 0.0])) == []


# Spikes


def test_a_spike_is_told_when_patience_is_at_an_end():
    losses = [2.0 + 0.01 * (i % 5) for i in range(50)] + [4.0, 4.1, 4.2, 4.3, 2.0]
    [alert] = heard(LossSpike(), of(loss=losses))
    assert alert.step == 53
    assert (
        alert.seen
        == "The loss is 4.2 at step 53, far above the 2.02 (2.1 times as much) that was usual before."
    )


def test_a_single_hard_batch_is_none():
    losses = [2.0 + 0.01 * (i % 5) for i in range(50)] + [9.0, 2.0, 9.0, 9.0, 2.0]
    assert heard(LossSpike(), of(loss=losses)) == []
    assert [a.step for a in heard(LossSpike(patience=2), of(loss=losses))] == [54]


def test_both_bounds_must_be_crossed():
    """median 2.0, MAD 0.1: 6 robust deviations end at 2.0 + 6 * 1.4826 * 0.1 = 2.88956, the rise at 3.0."""
    usual = [1.9, 2.1] * 25 + [2.0]
    rule = LossSpike(patience=1, rise=0.2)
    log_bound = 2.0 * np.exp(6 * 1.4826 * np.median(np.abs(np.log(usual) - np.log(2.0))))
    bound = max(2.88956, log_bound)
    assert heard(rule, of(loss=[*usual, bound - 1e-3])) == []
    assert len(heard(rule, of(loss=[*usual, bound + 1e-3]))) == 1
    assert heard(LossSpike(patience=1, rise=0.9), of(loss=[*usual, 3.79])) == []
    assert len(heard(LossSpike(patience=1, rise=0.9), of(loss=[*usual, 3.81]))) == 1


def test_losses_below_zero_spike_too():
    usual = [-10.0 + 0.1 * (i % 3) for i in range(60)]
    assert [a.step for a in heard(LossSpike(), of(loss=[*usual, 0.0, 0.0, 0.0]))] == [63]


def test_an_explosion_at_the_beginning():
    assert [a.step for a in heard(LossSpike(), of(loss=[4.0, 3.0, 5.0, 11.0, 12.0, 13.0, 14.0]))] == [6]
    assert heard(LossSpike(), of(loss=[4.0, 3.0, 5.0, 9.0, 9.0, 9.0, 9.0])) == []


@pytest.mark.parametrize(
    "losses",
    [
        8.0 * np.exp(-np.arange(2000) / 150) * np.exp(noise(2000, 0.5)),  # the noise shrinks with the loss
        5.0 / np.sqrt(1 + np.arange(2000)) + 2.0 + noise(2000, 0.05),
        np.exp(noise(2000, 1.0)),  # heavy tails all the way
        np.full(2000, 0.7),
        1.0 + 0.3 * np.sin(np.arange(2000) / 40) + noise(2000, 0.02),
        np.where(np.arange(2000) % 97 == 0, 5.0, 0.1) + np.abs(noise(2000, 0.01)),  # a rare class
    ],
    ids=["falling", "slow", "heavy", "constant", "wave", "rare"],
)
def test_what_is_usual_is_no_spike(losses):
    assert heard(LossSpike(), of(loss=losses.tolist())) == []


# Stalled


def test_a_loss_that_falls_and_then_does_not():
    losses = np.concatenate([np.linspace(4, 2, 1000), np.full(1500, 2.0)]) + noise(2500, 0.01)
    [alert] = heard(Stalled(window=500, patience=1), of(loss=losses.tolist()))
    assert 1375 <= alert.step <= 1425  # from 1375 on more than half of the window's first half is flat
    assert f"has not fallen since step {alert.step - 499:,}:" in alert.seen


def test_judged_twenty_times_a_window_and_with_patience():
    rule = Stalled(window=200, patience=3, cooldown=0)
    assert [a.step for a in heard(rule, of(loss=[1.0] * 250))] == [220, 230, 240, 250]


def test_by_how_much_it_must_fall():
    """From half to half by exactly 1 %: stalled where 2 % are asked for, not where 0.5 % are."""
    losses = of(loss=[1.0] * 100 + [0.99] * 100)
    assert heard(Stalled(window=200, patience=1), losses) == []
    assert len(heard(Stalled(window=200, patience=1, least=0.02), losses)) == 1


def test_a_loss_below_zero_falls_too():
    falling = of(loss=[-1.0 - i / 1000 for i in range(400)])
    assert heard(Stalled(window=200, patience=1), falling) == []
    assert len(heard(Stalled(window=200, patience=1), of(loss=[-1.0] * 200))) == 1


def test_slow_is_not_stalled_and_other_losses_are_not_judged():
    slow = 3.0 * 0.9999 ** np.arange(6000) + noise(6000, 0.05)
    assert heard(Stalled(), of(loss=slow.tolist())) == []
    values = {"clipwise/norm": 1.0, "loss": 1.0}
    assert heard(Stalled(window=40, patience=1), [Moment(i, "critic", values) for i in range(100)]) == []


@pytest.mark.parametrize("at", [2, 3])
def test_an_explosion_of_the_second_or_third_loss(at):
    losses = [82.0, 80.0][: at - 1] + [2e26, 3e26, 1e27] + [5e26] * 40
    [alert] = heard(LossSpike(), of(loss=losses))
    assert alert.step == at + 2  # patience
    assert "far above the 82 " in alert.seen
    assert heard(LossSpike(), of(loss=[0.3, 2.9, 1.0, 0.2] * 20)) == []  # a noisy beginning
