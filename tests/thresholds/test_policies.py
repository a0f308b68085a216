"""Every policy against its float64 loop, on numpy and torch, one group and several, through bad norms."""

import math

import array_api_compat.numpy
import array_api_compat.torch
import numpy as np
import pytest
import torch

from clipwise import norm_growth_limit, thresholds
from clipwise.errors import ArgumentError, ParameterError, ThresholdError
from clipwise.namespace import Namespace
from clipwise.thresholds import Observation
from tests.depth import pairwise

from . import oracles

STEPS = 300
BACK_ENDS = {
    "numpy-float64": (Namespace(array_api_compat.numpy, np.float64, None), np.float64),
    "numpy-float32": (Namespace(array_api_compat.numpy, np.float32, None), np.float32),
    "numpy itself": (np, np.float64),
    "torch-float64": (Namespace(array_api_compat.torch, torch.float64, torch.device("cpu")), torch.float64),
    "torch-float32": (Namespace(array_api_compat.torch, torch.float32, torch.device("cpu")), torch.float32),
}


def series(seed: int, spikes: bool = True) -> np.ndarray:
    """Norms as training has them: skewed, drifting, with spikes, NaN, Inf and exact zeros."""
    rng = np.random.default_rng(seed)
    norms = np.exp(rng.normal(0.0, 0.5, STEPS) + np.linspace(0.0, -1.0, STEPS))
    if spikes:
        norms[rng.integers(5, STEPS, 8)] *= 100.0
        for place, value in zip(rng.integers(0, STEPS, 9), [math.nan, math.inf, 0.0] * 3, strict=True):
            norms[place] = value
    return norms


NORMS = np.stack([series(1), series(2), series(3)], axis=1)
TOGETHER = np.sqrt((NORMS**2).sum(axis=1))
WEIGHTS = np.linspace(5.0, 8.0, STEPS)
RATES = np.concatenate([[0.0, 0.0], np.full(STEPS - 2, 0.5)])
LOSSES = series(4)
RATIOS = np.linspace(0.0, 4.0, STEPS)

POLICIES = [
    (thresholds.fixed(0.7), lambda n, k: oracles.fixed(n, 0.7)),
    (thresholds.automatic(0.7, 0.1), lambda n, k: oracles.automatic(n, 0.7, 0.1)),
    (thresholds.linear(5, 1, 100), lambda n, k: oracles.linear(n, 5, 1, 100)),
    (thresholds.cosine(5, 1, 100), lambda n, k: oracles.cosine(n, 5, 1, 100)),
    (thresholds.exponential(5, 1, 100), lambda n, k: oracles.exponential(n, 5, 1, 100)),
    (thresholds.schedule(lambda t: 5.0 if t < 7 else 1.0), lambda n, k: [5.0] * 7 + [1.0] * (len(n) - 7)),
    (thresholds.percentile(), lambda n, k: oracles.percentile(n, 10)),
    (thresholds.percentile(90, 20), lambda n, k: oracles.percentile(n, 90, 20)),
    (thresholds.percentile(0, 1), lambda n, k: oracles.percentile(n, 0, 1)),
    (thresholds.percentile(100), lambda n, k: oracles.percentile(n, 100)),
    (thresholds.mean(1.5, 0.9), lambda n, k: oracles.mean(n, 1.5, 0.9)),
    (thresholds.zscore(), lambda n, k: oracles.zscore(n, 2.5, 0.97, 25)),
    (thresholds.zscore(1.0, 0.5, 1), lambda n, k: oracles.zscore(n, 1.0, 0.5, 1)),
    (thresholds.rolling_zscore(), lambda n, k: oracles.rolling_zscore(n, 6.0, 128)),
    (thresholds.rolling_zscore(1.0, 2), lambda n, k: oracles.rolling_zscore(n, 1.0, 2)),
    (thresholds.relative(0.02, 6.0), lambda n, k: [0.02 * max(w, 6.0) for w in WEIGHTS]),
    (thresholds.moment_ratio(1.5), lambda n, k: oracles.moment_ratio(n, RATIOS, 1.5)),
    (thresholds.tensor_average(), lambda n, k: oracles.tensor_average(n, TOGETHER, 1.05, 0.98, 100)),
    (thresholds.tensor_average(2.0, 0.5, 3), lambda n, k: oracles.tensor_average(n, TOGETHER, 2.0, 0.5, 3)),
    (norm_growth_limit(1.3).threshold, lambda n, k: oracles.norm_growth(n, TOGETHER, 1.3)),
    (thresholds.quantile_ema(), lambda n, k: oracles.quantile_ema(n, 0.5, 0.2, 0.1)),
    (
        thresholds.reduce_on_instability(1.0, 0.5, patience=2, floor=0.05),
        lambda n, k: oracles.reduce_on_instability(LOSSES, 1.0, 0.5, 2, 0.05),
    ),
    (
        thresholds.reduce_on_instability(2.0, 0.9, patience=1, floor=0.0, window=15, z=1.0),
        lambda n, k: oracles.reduce_on_instability(LOSSES, 2.0, 0.9, 1, 0.0, 15, 1.0),
    ),
    (thresholds.auto(), lambda n, k: oracles.auto(n, WEIGHTS, 1000, RATES, 0.9, LOSSES)),
]


def run(policy, back_end: str, shape: tuple[int, ...]) -> np.ndarray:
    """The threshold of each step, ``(steps, *shape)``."""
    xp, dtype = BACK_ENDS[back_end]

    def array(value):
        if isinstance(dtype, torch.dtype):
            return torch.as_tensor(value, dtype=dtype)
        return np.asarray(value, dtype=dtype)

    state = policy.init(xp, shape)
    out = []
    for t in range(STEPS):
        norm = array(NORMS[t] if shape else NORMS[t, 0])
        seen = Observation(
            norm=norm,
            step=t,
            global_norm=array(TOGETHER[t]),
            weight_norm=array(np.full(shape, WEIGHTS[t])),
            weight_count=1000,
            learning_rate=RATES[t],
            momentum=0.9,
            loss=array(LOSSES[t]),
            moment_ratio=array(np.full(shape, RATIOS[t])),
        )
        before = shapes_of(state)
        threshold, state = policy.update(xp, state, seen)
        assert shapes_of(state) == before, (
            "a state changes neither shape nor dtype, or it could not be compiled"
        )
        out.append(np.broadcast_to(np.asarray(threshold, dtype=np.float64), shape))
    return np.stack(out)


def shapes_of(state) -> list:
    if isinstance(state, tuple):
        return [shapes_of(field) for field in state]
    return [tuple(state.shape), state.dtype]


@pytest.mark.parametrize(
    ("case", "back_end", "shape"),
    pairwise(POLICIES, [*BACK_ENDS], [(), (3,)]),
    ids=lambda part: repr(part[0])[:40] if part in POLICIES else str(part),
)
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning", "ignore:overflow:RuntimeWarning")
def test_policy_gives_the_thresholds_of_its_formula(case, back_end, shape):
    policy, oracle = case
    found = run(policy, back_end, shape)
    expected = np.stack([oracle(NORMS[:, k], k) for k in range(3)], axis=1)
    # float32: 300 recursive updates, each rounded at 6e-8, whose differences cancel in variances.
    tolerance = 1e-12 if "64" in back_end or "itself" in back_end else 2e-4
    if shape == ():
        expected = expected[:, 0]
    # Where the norm itself is NaN or Inf there is nothing to clip; its threshold may be anything.
    judged = np.isfinite(NORMS if shape else NORMS[:, 0])
    np.testing.assert_allclose(found[judged], expected[judged], rtol=tolerance)


HISTORIES = {
    "ten decades": lambda rng: 10.0 ** rng.uniform(-5, 5, 2500),
    "lognormal": lambda rng: np.exp(rng.normal(0, 0.5, 2500)),
    "two values": lambda rng: np.where(np.arange(2500) % 2, 100.0, 1.0),
    "constant": lambda rng: np.full(2500, 1.0),
    "constant beyond the bins": lambda rng: np.full(2500, 1e15),
}


@pytest.mark.parametrize("history", HISTORIES)
def test_long_history_keeps_its_stated_error(history):
    """A whole history longer than the ring, against numpy's percentile of all of it."""
    norms = HISTORIES[history](np.random.default_rng(0))
    state = thresholds.percentile().init(np, ())
    for t, norm in enumerate(norms):
        seen, before = Observation(norm=np.asarray(norm)), state
        _, state = thresholds.percentile().update(np, before, seen)
        if t > 1000 and t % 250 == 0:
            for q in (0, 1, 10, 50, 90, 99.9, 100):  # of one and the same history
                threshold, _ = thresholds.percentile(q).update(np, before, seen)
                assert threshold == pytest.approx(np.percentile(norms[: t + 1], q), rel=0.00501)
                assert norms[: t + 1].min() <= threshold <= norms[: t + 1].max()


def test_memory_stays_bounded():
    state = thresholds.percentile().init(np, ())
    assert sum(field.nbytes for field in state) < 31_000
    window = thresholds.percentile(10, window=50).init(np, ())
    assert sum(field.nbytes for field in window) < 2 * 50 * 8 + 100


@pytest.mark.parametrize("name", ["percentile", "mean", "zscore", "tensor_average", "quantile_ema", "auto"])
def test_a_history_of_nothing_usable_never_clips(name):
    """All norms NaN, Inf or 0: nothing is learned, and a later ordinary first norm is not clipped."""
    policy = getattr(thresholds, name)()
    if name == "quantile_ema":  # starts from a number, not from a history
        policy = thresholds.quantile_ema(start=10.0)
    state = policy.init(np, ())
    with np.errstate(invalid="ignore"):
        for norm in [math.nan, math.inf, 0.0, -0.0, math.inf]:
            seen = Observation(norm=np.asarray(norm), global_norm=np.asarray(norm))
            _, state = policy.update(np, state, seen)
        one = np.asarray(0.9)
        threshold, _ = policy.update(np, state, Observation(norm=one, global_norm=one))
    assert threshold >= 0.9


def test_policies_run_on_plain_floats():
    for policy in (thresholds.percentile(), thresholds.zscore(), thresholds.auto(), thresholds.mean()):
        state = policy.init(np, ())
        for norm in (1.0, 2.0, 3.0):
            threshold, state = policy.update(np, state, Observation(norm=norm))
        assert float(threshold) > 0


def test_what_policies_say_of_themselves():
    """The back ends rely on these: a policy whose answer depends on the past says so."""
    for name in thresholds.__all__:
        policy_type = getattr(thresholds, name)
        if name in ("Threshold", "WithReasons") or not hasattr(policy_type, "update"):
            continue
        assert policy_type.remembers == (name not in ("fixed", "moment_ratio", "relative", "automatic")), name
        assert isinstance(policy_type.needs, frozenset), name


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: thresholds.percentile(101), ThresholdError, "q must be within [0, 100], got 101"),
        (lambda: thresholds.percentile(math.nan), ThresholdError, "q must be a number, got NaN"),
        (
            lambda: thresholds.percentile(10, 0),
            ArgumentError,
            "window must be a whole number of at least 1, got 0",
        ),
        (lambda: thresholds.percentile(10, 2.5), ArgumentError, "got 2.5"),
        (lambda: thresholds.zscore(0), ThresholdError, "z must be at least"),
        (lambda: thresholds.zscore(2.5, 1.0), ArgumentError, "decay must be at least 0 and below 1, got 1.0"),
        (lambda: thresholds.mean(-1), ThresholdError, "factor must be at least 0, got -1"),
        (lambda: thresholds.fixed("1"), ThresholdError, "value must be a number, got '1'"),
        (lambda: thresholds.linear(5, -1, 10), ThresholdError, "stop must be at least 0, got -1"),
        (lambda: thresholds.linear(math.inf, 1, 10), ThresholdError, "finite"),
        (lambda: thresholds.exponential(5, 0, 10), ThresholdError, "above 0"),
        (lambda: thresholds.cosine(5, 1, 0), ArgumentError, "steps"),
        (lambda: thresholds.schedule(3.0), ArgumentError, "got 3.0"),
        (lambda: thresholds.relative(-0.1), ThresholdError, "ratio must be at least 0, got -0.1"),
        (lambda: thresholds.relative(0.1, 0.0), ThresholdError, "eps"),
        (lambda: thresholds.quantile_ema(start=1e-300), ThresholdError, "start must be at least 1.17549e-38"),
        (lambda: thresholds.quantile_ema(1.5), ThresholdError, "quantile must be within [0, 1], got 1.5"),
        (
            lambda: thresholds.reduce_on_instability(floor=2.0),
            ThresholdError,
            "floor must not exceed start=1",
        ),
        (lambda: thresholds.reduce_on_instability(factor=1.0), ArgumentError, "got 1.0"),
    ],
)
def test_bad_arguments_are_named(make, error, words):
    with pytest.raises(error) as caught:
        make()
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "policy", [thresholds.zscore(), thresholds.rolling_zscore()], ids=lambda p: type(p).__name__
)
@pytest.mark.parametrize("back_end", BACK_ENDS)
@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")
def test_a_norm_without_a_square_in_the_warm_up_does_not_lift_the_threshold_for_ever(policy, back_end):
    xp, dtype = BACK_ENDS[back_end]
    array = torch.as_tensor if isinstance(dtype, torch.dtype) else np.asarray
    large = 1e25 if "float32" in back_end else 1e200
    state = policy.init(xp, ())
    for t in range(200):
        norm = large if t == 3 else 1.0 + t % 2
        seen = Observation(norm=array(norm, dtype=dtype), step=t)
        threshold, state = policy.update(xp, state, seen)
    assert 1.0 < float(threshold) < 10.0


def test_a_schedule_that_gives_nonsense_is_named():
    policy = thresholds.schedule(lambda step: -2.0)
    with pytest.raises(ThresholdError, match=r"for step 3 must be at least 0, got -2\.0"):
        policy.update(np, policy.init(np, ()), Observation(norm=1.0, step=3))
    for bad in (np.float32(-1), np.float64("nan"), "1", None, 1j):
        policy = thresholds.schedule(lambda step, bad=bad: bad)
        with pytest.raises(ThresholdError, match="for step 0 must be"):
            policy.update(np, policy.init(np, ()), Observation(norm=1.0))


def test_numpy_scalars_are_numbers():
    assert thresholds.percentile(np.float32(10), np.int64(5)) == thresholds.percentile(10, 5)
    assert thresholds.zscore(2.5, np.float64(0.5), np.int32(3)) == thresholds.zscore(2.5, 0.5, 3)
    for bad in (np.bool_(True), np.complex64(1 + 2j), np.ones(2)):
        with pytest.raises(ThresholdError, match="value must be"):
            thresholds.fixed(bad)


def test_a_policy_of_the_loss_asks_for_it():
    policy = thresholds.reduce_on_instability()
    with pytest.raises(ParameterError, match="observe"):
        policy.update(np, policy.init(np, ()), Observation(norm=1.0))
