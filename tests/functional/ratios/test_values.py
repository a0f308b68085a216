"""Every loss on every kind of array, against loops over Python floats."""

import numpy as np
import pytest

from clipwise.functional import ratios
from tests.functional.ratios import cases, frameworks, oracles

KINDS = tuple(frameworks.MAKE)
PPO = {
    "ppo": {"low": 0.2},
    "asymmetric": {"low": 0.1, "high": 0.4},
    "dual": {"low": 0.2, "dual": 1.4},
    "one side only": {"low": 1.0, "high": 0.1},
    "sequence_mean": {"low": 0.2, "aggregate": "sequence_mean"},
    "constant": {"low": 0.2, "aggregate": "constant", "length": 12},
}


def near(found, wanted):
    np.testing.assert_allclose(np.asarray(found, np.float64), wanted, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", PPO)
@pytest.mark.parametrize("masked", [False, True])
def test_ppo_clip(kind, name, masked):
    settings = PPO[name]
    logp, old, worth, _, mask = cases.batch()
    found = frameworks.value(
        kind, lambda x: ratios.ppo_clip(x, old, worth, mask=mask if masked else None, **settings), logp
    )
    low = settings["low"]
    wanted = oracles.ppo(
        oracles.rows(logp),
        oracles.rows(old),
        oracles.rows(worth),
        mask if masked else np.ones_like(mask),
        low,
        settings.get("high", low),
        dual=settings.get("dual"),
        how=settings.get("aggregate", "token_mean"),
        length=settings.get("length"),
    )
    near(found.loss, wanted)
    assert found.loss.shape == ()
    assert found.loss.dtype == np.float64


def test_the_oracle_by_hand():
    """Three tokens worked out on paper: r = 1.5, 0.5, 2 and A = 1, -1, -1 with low = high = 0.2."""
    # min(1.5, 1.2) = 1.2; min(-0.5, -0.8) = -0.8; min(-2, -1.2) = -2: minus their mean is 1.6 / 3.
    old = np.log([0.2, 0.4, 0.1])
    logp = np.log([0.3, 0.2, 0.2])
    loss, figures = ratios.ppo_clip(logp, old, np.asarray([1.0, -1.0, -1.0]))
    near(loss, 1.6 / 3)
    near(figures.outside, 1.0)
    near((figures.binding_low, figures.binding_high), (1 / 3, 1 / 3))
    near(ratios.dual_clip(logp, old, np.asarray([1.0, -1.0, -1.0]), dual=1.5).loss, 1.1 / 3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["dual_clip", "two_sided", "grpo", "dapo", "dr_grpo"])
def test_presets(kind, name):
    logp, old, worth, _, mask = cases.batch(1, spread=0.9)
    settings, own, extra = {
        "dual_clip": ({}, {"dual": 3.0}, {}),
        "two_sided": ({"delta": 1.9}, {"dual": 1.9, "term": oracles.two_sided_term}, {}),
        "grpo": ({}, {"how": "sequence_mean"}, {}),
        "dapo": ({}, {}, {"high": 0.28}),
        "dr_grpo": ({"length": 20}, {"how": "constant", "length": 20}, {}),
    }[name]
    found = frameworks.value(
        kind, lambda x: getattr(ratios, name)(x, old, worth, mask=mask, **settings), logp
    )
    arrays = (oracles.rows(x) for x in (logp, old, worth))
    near(found.loss, oracles.ppo(*arrays, mask, 0.2, extra.get("high", 0.2), **own))


@pytest.mark.parametrize("kind", KINDS)
def test_gspo(kind):
    logp, old, _, worth, mask = cases.batch(2, spread=0.002)
    mask[3] = False  # a sequence without a token counts as a term of 0
    found = frameworks.value(kind, lambda x: ratios.gspo(x, old, worth, mask=mask), logp)
    near(found.loss, oracles.gspo(oracles.rows(logp), oracles.rows(old), worth, mask, 3e-4, 4e-4))
    present = [s for s in oracles.sequence_ratios(logp, old, mask) if s is not None]
    near(found.figures.ratio_max, max(present))
    near(found.figures.ratio_min, min(present))
    near(found.figures.outside_high, sum(s > 1 + 4e-4 for s in present) / len(present))
    assert 0 < float(found.figures.binding) < float(found.figures.outside)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("settings", "bottom", "top"),
    [
        ({"high": 0.3}, 0.0, 1.3),
        ({"high": 0.3, "low": 0.2}, 0.8, 1.3),
        ({"high": 1.3, "convention": "trl"}, 0.0, 1.3),
        ({"high": 0.2, "convention": "trl"}, 0.0, 0.2),
    ],
)
def test_cispo(kind, settings, bottom, top):
    logp, old, worth, _, mask = cases.batch(3)
    found = frameworks.value(kind, lambda x: ratios.cispo(x, old, worth, mask=mask, **settings), logp)
    arrays = (oracles.rows(x) for x in (logp, old, worth))
    near(found.loss, oracles.cispo(*arrays, mask, bottom, top))
    counted = np.exp(logp - old)[mask]
    near(found.figures.binding_high, np.mean(counted > top))
    near(found.figures.binding_low, np.mean(counted < bottom))


@pytest.mark.parametrize("kind", KINDS)
def test_advantages_by_sequence_are_those_of_each_token(kind):
    logp, old, _, worth, mask = cases.batch(4)
    spread_out = np.repeat(worth[:, None], logp.shape[1], axis=1)
    by_token = frameworks.value(kind, lambda x: ratios.grpo(x, old, spread_out, mask=mask).loss, logp)
    for given in (worth, worth[:, None]):
        near(
            frameworks.value(kind, lambda x, a=given: ratios.grpo(x, old, a, mask=mask).loss, logp), by_token
        )


@pytest.mark.parametrize("kind", KINDS)
def test_figures(kind):
    logp, old, worth, _, mask = cases.batch(5)
    found = frameworks.value(
        kind, lambda x: ratios.ppo_clip(x, old, worth, low=0.15, high=0.3, mask=mask).figures, logp
    )
    wanted = oracles.figures(*(oracles.rows(x) for x in (logp, old, worth)), mask, 0.15, 0.3)
    for name, number in wanted.items():
        near(getattr(found, name), number)
    assert found.dual == 0
    assert found.metrics().keys() == {f"ratio/{name}" for name in found._fields}
    assert 0 < wanted["binding_low"] < wanted["outside_low"]
    assert 0 < wanted["binding_high"] < wanted["outside_high"]


def test_dual_share():
    logp, old, worth, _, mask = cases.batch(6)
    ratio = np.exp(logp - old)
    share = np.mean(((ratio > 1.3) & (worth < 0))[mask])
    assert share > 0
    near(ratios.dual_clip(logp, old, worth, dual=1.3, mask=mask).figures.dual, share)


def test_kl_is_exact_where_the_policies_nearly_agree():
    """In float32, r - 1 - log r at 1e-4 would be rounding of the size of the result."""
    difference = np.full((64,), 1e-4, np.float32)
    figures = ratios.ppo_clip(difference, np.zeros_like(difference), np.ones_like(difference)).figures
    x = float(np.float32(1e-4))
    np.testing.assert_allclose(figures.kl_k3, x * x / 2 + x**3 / 6, rtol=2e-3)
    np.testing.assert_allclose(figures.kl_k1, -x, rtol=1e-6)


def test_only_what_is_exponentiated_is_bounded():
    figures = ratios.ppo_clip(np.asarray([-50.0]), np.zeros(1), np.ones(1)).figures
    near(figures.kl_k1, 50.0)
    near(figures.kl_k3, np.expm1(-20.0) + 20.0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["token_mean", "sequence_mean", "constant"])
def test_aggregate(kind, how):
    terms, _, _, _, mask = cases.batch(7)
    mask[2] = False
    length = 11 if how == "constant" else None
    found = frameworks.value(kind, lambda x: ratios.aggregate(x, how, mask=mask, length=length), terms)
    near(found, oracles.mean_of(oracles.rows(terms), mask, how, length))


@pytest.mark.parametrize("kind", KINDS)
def test_a_ratio_at_its_bound_is_not_changed_and_does_not_count(kind):
    """Here 1, which every arithmetic computes exactly; nor does one beyond it whose advantage is 0."""
    old = np.array([[-1.0, -2.0, -3.0, -1.0]])
    new = old + np.array([[0.0, 0.0, 1.0, -1.0]])
    worth = np.array([[1.0, -1.0, 0.0, 0.0]])
    found = frameworks.value(kind, lambda x: ratios.ppo_clip(x, old, worth, low=0.0), new)
    near(found.figures.binding, 0.0)
    near(found.loss, 0.0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("convention", ["max", "clipped"])
@pytest.mark.parametrize("epsilon", [0.2, 0.0, 1.5, np.inf])
def test_value_clip(kind, convention, epsilon):
    rng = np.random.default_rng(8)
    values, old, returns = rng.normal(0, 1, (3, 40))
    mask = rng.random(40) < 0.7
    found = frameworks.value(
        kind,
        lambda x: ratios.value_clip(x, old, returns, epsilon, convention=convention, mask=mask),
        values,
    )
    near(found.loss, oracles.value(values, old, returns, mask, epsilon, convention))
    outside = np.abs(values - old) > epsilon
    ends = old + np.clip(values - old, -epsilon, epsilon)
    worse = (ends - returns) ** 2 > (values - returns) ** 2
    near(found.figures.outside, np.mean(outside[mask]))
    near(found.figures.binding, np.mean((outside & (worse if convention == "max" else True))[mask]))
    assert found.figures.metrics().keys() == {"value/outside", "value/binding"}
