"""GradientNonfinite, GradientSpike, GradientVanishing, UpdateRatio: on series whose outcome is known."""

import numpy as np
import pytest

from clipwise.monitor.rules import GradientNonfinite, GradientSpike, GradientVanishing, Moment, UpdateRatio
from tests.monitor.rules.recordings import heard, of

NAN, INF = float("nan"), float("inf")


# NaN and Inf


def test_the_first_bad_parameter_is_named_and_what_became_of_the_step():
    values = {"clipwise/nonfinite": 1.0, "clipwise/skipped": 1.0, "clipwise/norm": NAN}
    [alert] = heard(GradientNonfinite(), [Moment(3, "", values, {"a": 1.0, "b": -INF, "c": NAN})])
    assert alert.seen == "The gradient holds NaN or Inf at step 3, first in b (norm -Inf)."
    assert alert.why.startswith("The step was skipped")
    [other] = heard(GradientNonfinite(), of(nonfinite=[3.0]))
    assert other.seen == "The gradient holds NaN or Inf at step 1, in 3 parameters."
    assert other.why.startswith("Such a step would")


def test_finite_entries_whose_norm_is_not():
    [alert] = heard(GradientNonfinite(), of(nonfinite=[0.0], norm=[INF]))
    assert alert.seen == "The gradient holds NaN or Inf at step 1: its norm is Inf."


def test_finite_gradients_are_fine():
    assert heard(GradientNonfinite(), of(nonfinite=[0.0] * 3, norm=[1e308, 0.0, 1.0], loss=[NAN] * 3)) == []


# Spikes


def usual(count=60):
    """Norms around 1: the median of their logarithms is 0, its MAD log(1.2)."""
    return [(1 / 1.2, 1.0, 1.2, 1 / 1.2, 1.2)[i % 5] for i in range(count)]


def test_both_bounds_of_a_spike():
    """z deviations end at exp(z * 1.4826 * log(1.2)): 5.06 for z = 6; factor at 10."""
    assert heard(GradientSpike(), of(norm=[*usual(), 9.99])) == []
    assert len(heard(GradientSpike(), of(norm=[*usual(), 10.01]))) == 1
    bound = float(np.exp(10 * 1.4826 * np.log(1.2)))  # 14.9
    assert heard(GradientSpike(z=10), of(norm=[*usual(), bound * 0.999])) == []
    assert len(heard(GradientSpike(z=10), of(norm=[*usual(), bound * 1.001]))) == 1


def test_what_clipping_left_of_it_and_which_layer():
    moments = of(norm=[*usual(), 50.0], norm_after=[*usual(), 2.0])
    spike = moments[-1]
    moments[-1] = Moment(spike.step, "", spike.values, {"embed": 3.0, "rnn": 49.0, "head": 5.0})
    [alert] = heard(GradientSpike(), moments)
    assert alert.seen == (
        "The gradient's norm is 50 at step 61, 50 times the 1 that was usual before;"
        " the largest is that of rnn (49)."
    )
    assert "reduced it to 2" in alert.why
    [alert] = heard(GradientSpike(), of(norm=[*usual(), 50.0], norm_after=[*usual(), 50.0]))
    assert "it was not clipped" in alert.why
    assert "clip_by_global_norm(2)" in alert.advice


def test_an_explosion_at_the_beginning():
    assert [a.step for a in heard(GradientSpike(), of(norm=[0.3, 0.6, 1.4, 8.0, 49.0]))] == [5]
    assert heard(GradientSpike(), of(norm=[0.3, 0.6, 1.4, 8.0, 13.0])) == []


@pytest.mark.parametrize(
    "norms",
    [
        np.exp(np.random.default_rng(0).standard_normal(5000)),
        3.0 * 0.999 ** np.arange(3000) * np.exp(0.3 * np.random.default_rng(1).standard_normal(3000)),
        0.1 * 1.002 ** np.arange(3000),
        np.concatenate([np.zeros(50), np.ones(200)]),
        np.full(500, 1e-30),
    ],
    ids=["heavy", "falling", "rising", "from zero", "tiny"],
)
def test_what_is_usual_is_no_spike(norms):
    assert heard(GradientSpike(), of(norm=norms.tolist())) == []


# Vanishing

NAMES = [f"layer{i}.{part}" for i in range(6) for part in ("weight", "bias")]


def layered(norms, count=10):
    return [Moment(10 * i, "", {}, dict(zip(NAMES, norms, strict=True))) for i in range(1, count + 1)] + [
        Moment(10 * count + 1, "", {"clipwise/norm": 1.0})
    ]


def test_the_first_layers_get_nothing():
    [alert] = heard(GradientVanishing(), layered([10.0 ** (i - 11) for i in range(12)]))
    assert alert.step == 50  # the fifth time that layers were recorded
    # Medians of the first and the last four: sqrt... of 12: (1e-10 + 1e-9) / 2 and (1e-2 + 1e-1) / 2.
    assert alert.seen == (
        "The gradients of the first layers are 1e+08 times smaller than those of the last at step 50"
        " (layer0.weight: norm 1e-11; layer5.bias: 1)."
    )
    assert "residual connections" in alert.advice
    assert "clipping can only make gradients smaller" in alert.why


@pytest.mark.parametrize(("ratio", "alerts"), [(0.9e-4, 1), (1.1e-4, 0)])
def test_from_which_ratio_on(ratio, alerts):
    assert len(heard(GradientVanishing(), layered([ratio] * 4 + [0.01] * 4 + [1.0] * 4))) == alerts


def test_steps_between_do_not_interrupt():
    moments = []
    for step in range(1, 101):
        moments.append(Moment(step, "", {"clipwise/norm": 1.0, "loss": 1.0}))
        if step % 10 == 0:
            layers = dict(zip(NAMES, [1e-9] * 4 + [1.0] * 8, strict=True))
            moments.append(Moment(step, "", {}, layers))
    assert [a.step for a in heard(GradientVanishing(cooldown=10_000), moments)] == [50]


def test_layers_that_are_not_used_do_not_count():
    """A parameter whose gradient was 0 from the beginning; where it was not, 0 is as small as it gets."""
    assert heard(GradientVanishing(), layered([0.0] * 4 + [1.0] * 8)) == []
    moments = layered([1.0] * 12, count=2) + [
        Moment(100 + i, "", {}, dict(zip(NAMES, [0.0] * 4 + [1.0] * 8, strict=True))) for i in range(5)
    ]
    [alert] = heard(GradientVanishing(), moments)
    assert "(layer0.weight: norm 0;" in alert.seen


def test_few_layers_and_exploding_first_ones_are_fine():
    few = [Moment(i, "", {"clipwise/norm": 1.0}, {"a": 1e-9, "b": 1.0, "c": 1.0}) for i in range(1, 20)]
    assert heard(GradientVanishing(), few) == []
    assert heard(GradientVanishing(), layered([1e9] * 4 + [1.0] * 8)) == []


def collapse(losses, norms):
    return [a.step for a in heard(GradientVanishing(), of(loss=list(losses), norm=list(norms)))]


FALLING = np.concatenate([np.ones(500), np.full(500, 1e-4)])


def test_the_norm_collapses_and_nothing_was_learned():
    """Windows of 50: those that end at 550, 600, ... are below; the fifth speaks."""
    assert collapse(np.full(1000, 2.3), FALLING) == [750]


def test_the_norm_collapses_after_the_loss_jumped_back_up():
    losses = np.concatenate([np.linspace(4.0, 1.0, 500), np.full(500, 3.9)])
    assert collapse(losses, FALLING) == [750]


def test_a_training_that_converges_is_healthy():
    assert collapse(np.concatenate([np.linspace(4.0, 0.1, 500), np.full(500, 0.1)]), FALLING) == []
    steps = np.arange(3000)
    assert collapse(4 * np.exp(-steps / 200), 10 * np.exp(-steps / 200)) == []


def test_without_a_loss_a_small_norm_says_nothing():
    assert heard(GradientVanishing(), of(norm=FALLING.tolist())) == []


def test_a_norm_that_was_huge_for_a_while_is_no_measure():
    norms = np.concatenate([np.ones(500), np.full(100, 1e6), np.ones(400)])
    assert collapse(np.full(1000, 2.3), norms) == []


# Update to weight


@pytest.mark.parametrize(
    ("ratio", "word"), [(0.2, "destroy what was learned"), (1e-6, "almost nothing"), (0.0, "almost nothing")]
)
def test_a_ratio_out_of_range(ratio, word):
    import re

    [alert] = heard(UpdateRatio(), of(update_ratio=[ratio] * 100))
    assert alert.step == 69  # 50 for the window, and then 20 in a row
    assert re.search(word, alert.why)


@pytest.mark.parametrize("ratio", [1e-5, 1e-3, 1e-1])
def test_a_ratio_in_range(ratio):
    assert heard(UpdateRatio(), of(update_ratio=[ratio] * 200)) == []


def test_the_median_counts_and_what_is_no_number_does_not():
    ratios = [1e-3 if i % 3 else 10.0 for i in range(300)]
    assert heard(UpdateRatio(), of(update_ratio=ratios)) == []
    assert heard(UpdateRatio(), of(update_ratio=[NAN, INF] * 100)) == []


@pytest.mark.parametrize("at", [2, 3])
def test_an_explosion_of_the_second_or_third_norm(at):
    [alert] = heard(GradientSpike(), of(norm=[2.0, 1.0][: at - 1] + [1e13] + [1e12] * 40))
    assert alert.step == at
    assert "the 2 that was usual before" in alert.seen
    assert heard(GradientSpike(), of(norm=[0.3, 20.0, 9.0, 1.0] * 20)) == []
