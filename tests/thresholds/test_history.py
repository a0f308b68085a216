"""Histories against a Python list that is sorted anew after every value: every place, every percentile."""

import math
from itertools import pairwise

import array_api_compat.torch
import numpy as np
import pytest
import torch

from clipwise.namespace import Namespace
from clipwise.thresholds import _history
from clipwise.thresholds._base import usable

TORCH = Namespace(array_api_compat.torch, torch.float64, torch.device("cpu"))
QS = [0.0, 10.0, 33.3, 50.0, 90.0, 100.0]

# Values, and how many of them are kept: more values than places, so that each place is used many times.
KINDS = {
    "all different": lambda rng, n: np.exp(rng.normal(size=(n, 3))),
    "ties": lambda rng, n: rng.integers(1, 5, (n, 3)) / 3.0,
    "one value": lambda rng, n: np.full((n, 3), 0.1),
    "rising": lambda rng, n: np.linspace(1.0, 2.0, n)[:, None] * [1.0, 2.0, 3.0],
    "falling": lambda rng, n: np.linspace(2.0, 1.0, n)[:, None] * [1.0, 2.0, 3.0],
}


def values(kind: str, n: int) -> np.ndarray:
    """Norms of three groups, a fifth of them refused: each group its own, NaN, Inf or 0."""
    rng = np.random.default_rng(n)
    found = KINDS[kind](rng, n)
    bad = rng.random((n, 3)) < 0.2
    return np.where(bad, rng.choice([math.nan, math.inf, 0.0], (n, 3)), found)


def kept(norms: np.ndarray, size: int | None) -> list[float]:
    """The last ``size`` of those that may enter."""
    good = [float(n) for n in norms if math.isfinite(n) and n > 0]
    return good if size is None else good[-size:]


@pytest.mark.parametrize("xp", [np, TORCH], ids=["numpy", "torch"])
@pytest.mark.parametrize("shape", [(), (3,)], ids=["one", "three"])
@pytest.mark.parametrize("size", [1, 2, 7, 64])
@pytest.mark.parametrize("kind", KINDS)
def test_a_window_is_the_last_values_in_order(kind, size, shape, xp):
    array = torch.as_tensor if xp is TORCH else np.asarray
    norms = values(kind, 40 + 12 * size)
    history = _history.start(xp, shape, size)
    for t, norm in enumerate(norms):
        norm = array(norm if shape else norm[0])
        history = _history.add(xp, history, norm, usable(xp, norm))
        if t % (1 + size // 8):
            continue  # the oracle sorts everything anew
        ordered = np.asarray(history.ordered).reshape(-1, size)
        ring = np.asarray(history.ring).reshape(-1, size)
        found = {q: np.asarray(_history.percentile_of(xp, history, q)).reshape(-1) for q in QS if t % 5 == 0}
        for k in range(len(ordered)):
            expected = kept(norms[: t + 1, k], size)
            free = [math.inf] * (size - len(expected))
            assert ordered[k].tolist() == sorted(expected) + free
            good = kept(norms[: t + 1, k], None)
            places = {n % size: value for n, value in enumerate(good)}
            assert ring[k].tolist() == [places.get(place, math.inf) for place in range(size)]
            for q, percentiles in found.items():
                wanted = np.percentile(expected, q) if expected else math.inf
                np.testing.assert_allclose(percentiles[k], wanted, rtol=1e-14)


def test_a_long_window_after_thousands_of_values():
    """A ring of 1,000, as `auto` has it, beside the bins of the whole history."""
    norms = values("all different", 4000)
    history = _history.start(np, (3,), 1000, whole=True)
    for norm in norms:
        history = _history.add(np, history, norm, usable(np, norm))
    for k in range(3):
        last, everything = kept(norms[:, k], 1000), kept(norms[:, k], None)
        assert len(everything) > 3000 > history.count[k] - 200
        assert history.ordered[k].tolist() == sorted(last)
        assert (history.lowest[k], history.highest[k]) == (min(everything), max(everything))
        assert history.count[k] == history.so_far[k, -1] == len(everything)
        for q in QS:
            recent = _history.percentile_of_sorted(np, history.ordered, history.count, q)[k]
            assert recent == pytest.approx(np.percentile(last, q), rel=1e-14)
            whole = _history.percentile_of(np, history, q)[k]
            assert whole == pytest.approx(np.percentile(everything, q), rel=0.00501)


def test_a_whole_history_is_exact_up_to_the_last_place_and_then_within_its_error():
    norms = values("all different", 1500)[:, 0]
    history = _history.start(np, (), None)
    assert history.ring.shape == (0,)
    for t, norm in enumerate(norms):
        norm = np.asarray(norm)
        history = _history.add(np, history, norm, usable(np, norm))
        everything = kept(norms[: t + 1], None)
        if t % 50 == 0 or abs(len(everything) - 1000) < 3:
            for q in QS:
                wanted = np.percentile(everything, q) if everything else math.inf
                tolerance = 1e-14 if len(everything) <= 1000 else 0.00501
                assert _history.percentile_of(np, history, q) == pytest.approx(wanted, rel=tolerance)
    assert history.ordered.tolist() == sorted(everything[:1000])


def test_bins_count_what_is_in_them_or_below():
    norms = np.asarray([1e-20, 1e-12, 0.5, 0.5, 1.0, 7.0, 1e11, 1e30])
    history = _history.start(np, (), None)
    for norm in norms:
        history = _history.add(np, history, norm, usable(np, norm))
    width = math.log(1.005 / 0.995)
    edges = [math.exp((k + 1) * width) * 1e-12 for k in range(history.so_far.shape[0] - 1)]
    # The outermost bins take what lies beyond them; 1e-12 is the lower edge of the first.
    expected = [int((norms < edge * (1 + 1e-12)).sum()) for edge in edges]
    assert history.so_far.tolist() == [*expected, len(norms)]
    assert all(a <= b for a, b in pairwise(history.so_far.tolist()))


def test_a_constant_history_gives_back_its_very_value():
    """A threshold a rounding below a norm that never changes would clip every step."""
    constants = np.random.default_rng(0).uniform(0.0, 10.0, 200)
    history = _history.start(np, (200,), 50)
    for _ in range(60):
        history = _history.add(np, history, constants, usable(np, constants))
    for q in np.linspace(0, 100, 33):
        assert _history.percentile_of(np, history, q).tolist() == constants.tolist()


@pytest.mark.parametrize("shape", [(), (3,)], ids=["one", "three"])
@pytest.mark.parametrize(("window", "count"), [(1, 50), (20, 300), (None, 1400)])
@pytest.mark.filterwarnings("error")  # JAX warns of a width that it does not have
def test_compiled_by_jax_in_float32(window, count, shape):
    jax = pytest.importorskip("jax")
    jnp = jax.numpy
    xp = Namespace(jnp, jnp.float32, None)
    norms = values("all different", count).astype(np.float32)
    compiled = []

    @jax.jit
    def step(history, norm):
        compiled.append(norm)
        history = _history.add(xp, history, norm, usable(xp, norm))
        return history, [_history.percentile_of(xp, history, q) for q in QS]

    history = _history.start(xp, shape, window)
    for t, norm in enumerate(norms):
        history, found = step(history, norm if shape else norm[0])
        if t % 20 and t < count - 1:
            continue
        ordered = np.asarray(history.ordered).reshape(-1, history.ordered.shape[-1])
        for k, places in enumerate(ordered):
            good = kept(norms[: t + 1, k], window)
            inside = good if window else good[: _history.EXACT]
            assert places.tolist() == sorted(inside) + [math.inf] * (len(places) - len(inside))
            for q, percentiles in zip(QS, found, strict=True):
                wanted = np.percentile(good, q) if good else math.inf
                # Past the exact places, float32 may put a norm at an edge into the next bin.
                tolerance = 1e-6 if len(good) <= len(places) else 0.006
                np.testing.assert_allclose(np.asarray(percentiles).reshape(-1)[k], wanted, rtol=tolerance)
    assert len(compiled) == 1
