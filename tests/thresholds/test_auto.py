"""The rule of `auto` against its loop, and what it promises, on trainings small enough to be plain numpy."""

import math

import numpy as np
import pytest

from clipwise import thresholds
from clipwise.errors import ArgumentError, ThresholdError
from clipwise.thresholds import Observation

from . import oracles
from .test_policies import BACK_ENDS, torch

STEPS = 250


def training(seed: int) -> dict:
    """Norms with spikes, NaN, Inf and 0; weights that go away and come back; rates from 0 to 0.

    With seed 2 most losses are the same, and the weights are not finite twice.
    """
    rng = np.random.default_rng(seed)
    norms = np.exp(rng.normal(0.0, 0.7, STEPS))
    norms[rng.integers(0, STEPS, 6)] *= 100.0
    norms[rng.integers(0, STEPS, 3)] = [math.nan, math.inf, 0.0]
    t = np.arange(STEPS)
    weights = 5.0 + 0.5 * np.sin(t / 40.0) ** 2 + 0.02 * rng.normal(size=STEPS) - np.where(t > 200, 0.5, 0.0)
    losses = np.exp(rng.normal(0.0, 0.2, STEPS))
    losses[rng.integers(0, STEPS, 6)] *= 50.0
    losses[rng.integers(0, STEPS, 2)] = [math.nan, math.inf]
    if seed == 2:
        losses, weights[[0, 170]] = np.round(losses), [math.inf, math.nan]
    rates = 0.02 * np.minimum(t / 10, 1.0) * (1 + np.cos(math.pi * t / (STEPS - 1))) / 2
    counts = np.where(t < 120, 800, 1000)
    return {"norms": norms, "weights": weights, "losses": losses, "rates": rates, "counts": counts}


def answers(
    policy, run: dict, back_end: str, scale_free: bool = False, scale: float = 1.0, momentum: float = 0.9
) -> np.ndarray:
    """The threshold of each step, shape ``(steps, 1)``; every gradient, and 1 / rate, times ``scale``."""
    xp, dtype = BACK_ENDS[back_end]
    array = torch.as_tensor if isinstance(dtype, torch.dtype) else np.asarray
    state, out = policy.init(xp, (1,)), []
    for t in range(len(run["norms"])):
        seen = Observation(
            norm=array([scale * run["norms"][t]], dtype=dtype),
            step=t,
            weight_norm=array([run["weights"][t]], dtype=dtype),
            weight_count=int(run["counts"][t]),
            learning_rate=run["rates"][t] / scale,
            momentum=momentum,
            scale_free=scale_free,
            loss=array(run["losses"][t], dtype=dtype),
        )
        threshold, state = policy.update(xp, state, seen)
        out.append(float(threshold[0]))
    return np.array(out)


@pytest.mark.parametrize("back_end", BACK_ENDS)
@pytest.mark.parametrize("scale_free", [False, True])
def test_it_is_its_formula(back_end, scale_free):
    for seed in range(3):
        run = training(seed)
        if scale_free:
            expected = oracles.auto_scale_free(run["norms"])
        else:
            expected = oracles.auto(
                run["norms"], run["weights"], run["counts"].tolist(), run["rates"], 0.9, run["losses"]
            )
        # float32: the distance is a difference of norms of weights, rounded at 6e-8 of 5.
        tolerance = 2e-3 if "float32" in back_end else 1e-11
        np.testing.assert_allclose(
            answers(thresholds.auto(), run, back_end, scale_free), expected, rtol=tolerance
        )


@pytest.mark.parametrize("scale_free", [False, True])
def test_it_says_what_held_the_threshold(scale_free):
    run, policy = training(0), thresholds.auto()
    told = [run[name] for name in ("norms", "weights", "counts", "rates")]
    wanted: list[str] = []
    if scale_free:
        wanted = [
            "history" if math.isfinite(one) else "start" for one in oracles.auto_scale_free(run["norms"])
        ]
    else:
        oracles.auto(*told, 0.9, run["losses"], held=wanted)
    found, state = [], policy.init(np, ())
    for t, (norm, weight, count, rate) in enumerate(zip(*told, strict=True)):
        seen = Observation(norm=norm, step=t, weight_norm=weight, weight_count=int(count), learning_rate=rate,
                           momentum=0.9, scale_free=scale_free, loss=run["losses"][t])  # fmt: skip
        _, state, conditions = policy.update_held(np, state, seen)
        found.append(
            next((r for r, one in zip(policy.reasons, conditions(), strict=False) if one), "history")
        )
    assert found == wanted
    assert set(wanted) == ({"start", "history"} if scale_free else set(policy.reasons))


@pytest.mark.parametrize("scale", [1e-8, 1e-3, 1e5])
@pytest.mark.parametrize("scale_free", [False, True])
def test_gradients_of_any_size_are_treated_alike(scale, scale_free):
    run = training(0)
    found = answers(thresholds.auto(), run, "numpy itself", scale_free, scale)
    expected = scale * answers(thresholds.auto(), run, "numpy itself", scale_free)
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def descend(policy, gradient, weights: np.ndarray, rate: float, steps: int, momentum: float = 0.0):
    """Weights, norms and thresholds of SGD; ``gradient`` is given the weights and the step."""
    state, buffer = policy.init(np, ()), np.zeros_like(weights)
    norms, bounds = [], []
    for t in range(steps):
        g = gradient(weights, t)
        norm = np.linalg.norm(g)
        seen = Observation(
            norm=norm,
            step=t,
            weight_norm=np.linalg.norm(weights),
            weight_count=weights.size,
            learning_rate=rate,
            momentum=momentum,
        )
        threshold, state = policy.update(np, state, seen)
        buffer = momentum * buffer + g * min(1.0, float(threshold) / norm)
        weights = weights - rate * buffer
        norms.append(norm)
        bounds.append(float(threshold))
    return weights, np.array(norms), np.array(bounds)


def test_the_first_step_is_bounded_by_the_weights():
    begin = np.full(100, 0.3)
    end, _, _ = descend(thresholds.auto(), lambda w, t: np.full(100, 1e9), begin, 0.5, 1)
    assert np.linalg.norm(end - begin) == pytest.approx(0.02 * 3.0)


def test_under_momentum_no_step_is_longer_than_the_first_may_be_before_steps_agree():
    """A third of it at the first, and what one step carries on is room that the next one lacks."""
    begin, rate, momentum = np.random.default_rng(3).normal(size=400), 0.1, 0.9
    directions = np.random.default_rng(4).normal(size=(12, 400)) * 1e9
    at = [
        descend(thresholds.auto(stretch=1.0), lambda w, t: directions[t], begin, rate, steps, momentum)[0]
        for steps in range(13)
    ]
    steps = np.linalg.norm(np.diff(at, axis=0), axis=1)
    longest = 0.02 * np.linalg.norm(begin)
    assert steps[0] == pytest.approx(0.3 * longest)
    assert (steps <= longest * (1 + 1e-9)).all()


def test_steps_are_not_shortened_before_the_way_can_be_measured():
    """A way along the weights takes their norm down: that looks like no distance at all, until it is long."""
    begin = np.random.default_rng(5).normal(size=100)
    _, _, bounds = descend(thresholds.auto(), lambda w, t: 1e9 * w, begin, 1.0, 10)
    reach = 4 * np.linalg.norm(begin) / math.sqrt(100)
    gone = np.concatenate([[0.0], np.cumsum(bounds)[:-1]])
    assert (bounds[gone < reach] >= bounds[0] * (1 - 1e-9)).all()


def test_bursts_that_make_short_steps_are_no_spikes():
    """Gradients that all but vanish, and now and then come through: what is usual would hold those down."""
    rate, begin = 0.01, np.full(100, 1.0)
    _, _, bounds = descend(
        thresholds.auto(),
        lambda w, t: np.full(100, 0.1 if t % 50 == 49 else 1e-4),
        begin,
        rate,
        200,
    )
    assert (bounds[49::50] >= 1.0).all()  # bursts of norm 1 move the weights by .1 %
    assert (bounds[49::50] <= 0.2 * 10.0 / rate).all()


@pytest.mark.parametrize("scale", [1.0, 1e5])
def test_small_weights_may_grow_to_large_targets(scale):
    """A bound in proportion to the weights would keep them small; this one doubles with every step."""
    target = scale * np.linspace(-1.0, 2.0, 50)
    end, norms, _ = descend(thresholds.auto(), lambda w, t: 2 * (w - target), np.full(50, 1e-4), 0.1, 60)
    assert norms[-1] < 1e-2 * norms[0]
    assert np.linalg.norm(end - target) < 1e-2 * np.linalg.norm(target)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a_calm_run_is_left_alone(momentum):
    """Noise around a slope: after the first steps nothing that is usual is clipped."""
    rng = np.random.default_rng(1)
    target, noise = rng.normal(size=200), rng.normal(size=(200, 200)) * 0.05
    begin = rng.normal(size=200)
    rate = 0.02 * (1 - momentum)
    _, norms, bounds = descend(
        thresholds.auto(), lambda w, t: w - target + noise[t], begin, rate, 200, momentum
    )
    assert (norms[30:] > bounds[30:]).mean() < 0.02


def test_steps_to_and_fro_become_shorter():
    """A rate at which SGD without clipping leaves for infinity, from the first step on."""
    steepness = np.concatenate([np.full(10, 100.0), np.full(190, 1.0)])
    begin = np.random.default_rng(2).normal(size=200)

    def gradient(w, t):
        return steepness * w

    end, _, _ = descend(thresholds.auto(), gradient, begin, 0.03, 300)
    assert np.linalg.norm(end) < np.linalg.norm(begin)
    free, _, _ = descend(thresholds.fixed(1e30), gradient, begin, 0.03, 30)
    assert np.linalg.norm(free) > 1e3


def test_spikes_do_not_lift_the_threshold():
    """Every tenth norm a million: what is usual rises by 2 per cent at each, and comes back between them."""
    policy = thresholds.auto()
    state, seen = policy.init(np, ()), []
    for t in range(400):
        norm = np.asarray(1e6 if t % 10 == 9 else 1.0)
        threshold, state = policy.update(np, state, Observation(norm=norm, scale_free=True))
        seen.append(float(threshold))
    assert seen[0] == math.inf  # nothing is known yet
    assert max(seen[30:]) < 0.5 * math.exp(0.35)


def test_losses_in_half_precision_jump_no_more_than_others():
    """More than half of the last 50 are the same number."""
    rng = np.random.default_rng(0)
    losses = torch.tensor(2.3 + 0.01 * rng.normal(size=300)).bfloat16().double().numpy()
    policy = thresholds.auto()
    state, factors = policy.init(np, ()), []
    for loss in [*losses, 10.0]:
        _, state = policy.update(np, state, Observation(norm=np.asarray(1.0), loss=loss))
        factors.append(float(state.factor))
    assert factors[:-1] == [1.0] * 300
    assert factors[-1] == 0.5  # a real jump


@pytest.mark.parametrize("momentum", [1, 1.0, 1.5, np.asarray(1.0)])
def test_momentum_that_keeps_all_of_a_step_does_not_freeze_the_run(momentum):
    """1 - momentum is the share of a length that each step may add: it must not become 0."""
    run = training(0)
    found = answers(thresholds.auto(), run, "numpy itself", momentum=momentum)
    assert (found > 0).all()
    assert found.tolist() == answers(thresholds.auto(), run, "numpy itself", momentum=0.999).tolist()


@pytest.mark.parametrize("weights", [math.nan, math.inf, 1e30])
def test_weights_that_went_to_infinity_are_forgotten_when_they_are_back(weights):
    """Those of a checkpoint, say, which the policy is not told of. 1e30 has no square in float32."""
    run = training(0) | {"losses": np.ones(STEPS), "rates": np.full(STEPS, 0.01)}
    run["weights"][[0, 50]] = weights
    found = answers(thresholds.auto(), run, "torch-float32")
    assert np.isfinite(found).all()
    assert (found > 0).all()
    assert found[51] == pytest.approx(0.3 * 0.02 * run["weights"][51] / 0.01, rel=1e-5)


@pytest.mark.parametrize(
    ("keywords", "error", "words"),
    [
        ({"stretch": 0.5}, ArgumentError, "stretch must be at least 1, got 0.5"),
        ({"first": 0.0}, ThresholdError, "first must be at least 1.17549e-38, got 0.0"),
        ({"spike": 0.0}, ThresholdError, "spike must be at least 1.17549e-38, got 0.0"),
        ({"floor": 0.0}, ThresholdError, "floor must be at least 1.17549e-38, got 0.0"),
        ({"up": 0.9}, ArgumentError, "up is at least 1, got floor=0.05, down=0.5, up=0.9"),
        ({"window": 5}, ArgumentError, "window must be a whole number of at least 10, got 5"),
        ({"spike": math.nan}, ThresholdError, "spike must be a number, got NaN"),
    ],
)
def test_bad_arguments_are_named(keywords, error, words):
    with pytest.raises(error) as caught:
        thresholds.auto(**keywords)
    assert words in str(caught.value)
