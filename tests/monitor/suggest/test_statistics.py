"""The numbers, against numpy, scipy and hand calculation."""

import json
import math

import numpy as np
import pytest

from clipwise import config
from clipwise.monitor.suggest import suggest
from clipwise.monitor.suggest._statistics import rarest, rounded, share_bounds
from tests.monitor.suggest.series import INF, NAN, noise, spiked


def test_as_numpy_has_them():
    norms = spiked(1000)
    found = suggest(norms).statistics
    assert (found.count, found.nonfinite, found.zeros) == (1000, 0, 0)
    assert found.mean == pytest.approx(norms.mean(), rel=1e-14)
    assert found.median == np.median(norms)
    assert [found.p90, found.p95, found.p99] == np.percentile(norms, [90, 95, 99]).tolist()
    assert found.max == norms.max()
    assert found.tail == pytest.approx(np.percentile(norms, 99) / np.median(norms))
    usual = norms[norms <= 10 * np.median(norms)]
    assert found.slightly_above_mean == pytest.approx(1.1 * usual.mean())
    quarters = [np.median(np.log(norms[i : i + 250])) for i in range(0, 1000, 250)]
    assert found.drift == pytest.approx(math.exp(quarters[3] - quarters[0]))
    assert found.wander == pytest.approx(math.exp(max(quarters) - min(quarters)))
    largest = np.sort(norms)[::-1]
    assert found.hill == pytest.approx(1 / np.mean(np.log(largest[:50] / largest[50])))


def test_by_hand():
    found = suggest([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0])
    s = found.statistics
    assert (s.mean, s.median, s.p90, s.p95, s.max) == (pytest.approx(6.0), 6.0, 10.0, 10.5, 11.0)
    assert s.slightly_above_mean == pytest.approx(6.6)
    assert s.drift is None is s.hill
    clipped = {one.name: (one.threshold, one.clipped, one.share) for one in found.candidates}
    assert clipped["90th percentile"] == (10.0, 1, 1 / 11)
    assert clipped["slightly above the mean"] == (pytest.approx(6.6), 5, 5 / 11)
    assert clipped["5 medians"] == (30.0, 0, 0.0)


@pytest.mark.parametrize("exponent", [1.5, 4.0])
def test_hill_finds_the_exponent_of_a_pareto_tail(exponent):
    norms = (1 - np.random.default_rng(0).random(20_000)) ** (-1 / exponent)
    found = suggest(norms)
    assert found.statistics.hill == pytest.approx(exponent, rel=0.1)
    assert ("as large as many usual ones" in " ".join(found.reasons)) == (exponent < 2)


def test_shares_of_the_steps_count_all_finite_ones():
    norms = np.concatenate([spiked(), [0.0] * 100, [NAN] * 7])
    norms = np.random.default_rng(5).permutation(norms)
    for one in suggest(norms).candidates:
        assert one.clipped == np.count_nonzero(norms > one.threshold)
        assert one.share == one.clipped / 300


@pytest.mark.parametrize(("count", "of"), [(0, 20), (1, 20), (3, 40), (20, 20), (25, 49)])
def test_the_bounds_of_a_share(count, of):
    beta = pytest.importorskip("scipy.stats").beta
    low = beta.ppf(0.05, count, of - count + 1) if count else 0.0
    high = beta.ppf(0.95, count + 1, of - count) if count < of else 1.0
    assert share_bounds(count, of) == (pytest.approx(low, abs=1e-12), pytest.approx(high, abs=1e-12))


def test_what_did_not_happen_may_still():
    assert rarest(59) == pytest.approx(0.0495, abs=1e-4)
    assert (1 - rarest(59)) ** 59 == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("value", "two"), [(0.23456, 0.23), (0.999, 1.0), (1234, 1200.0), (2.3e-9, 2.3e-9), (5e-324, 5e-324)]
)
def test_two_digits(value, two):
    assert rounded(value) == two


@pytest.mark.parametrize("norms", [spiked() * 1e305, noise(100) * 1e307, spiked() * 1e-300])
def test_the_ends_of_the_range(norms, recwarn):
    found = suggest(norms)
    assert math.isfinite(found.statistics.mean)
    assert found.verdict in ("clip", "not needed")
    assert not recwarn.list


@pytest.mark.parametrize(
    "norms", [spiked(), spiked() * 1e305, noise(60), [NAN, INF], [0.0], [*noise(5), NAN, NAN], noise(300)]
)
def test_json_has_no_nan(norms):
    found = suggest(norms)
    data = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert data["verdict"] == found.verdict
    assert config.parse(data["config"]) == found.clip
    assert config.parse(data["clip"]) == found.clip
    assert data["threshold"] == found.threshold
    assert data["statistics"]["count"] == len(norms)
    assert data["lines"] == found.lines


def test_as_text():
    text = str(suggest(spiked()))
    assert text.startswith("Use clip_by_global_norm(")
    assert "\n- 10 norms exceed" in text
