"""The transformer: rules against numpy in float64, scikit-learn's own checks, batches, JSON, mistakes."""

import json
import math
import pickle
import warnings
from fractions import Fraction

import numpy as np
import pandas as pd
import polars as pl
import pytest
from sklearn.base import clone
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from clipwise.data import Bounds, Clipper, learn
from clipwise.errors import ArgumentError

SKIPPED = {"check_array_api_input"}  # scikit-learn skips it itself unless SCIPY_ARRAY_API is set


@parametrize_with_checks(
    [
        Clipper(),
        Clipper("iqr", side="high"),
        Clipper("mad", factor=2.0),
        Clipper("deviations", nan="error"),
        Clipper("given", low=-1.0, high=1.0),
    ]
)
def test_scikit_learns_own_checks(estimator, check):
    if check.func.__name__ not in SKIPPED:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            check(estimator)


def skewed(rows=1000, seed=0):
    generator = np.random.default_rng(seed)
    return np.exp(generator.normal(size=(rows, 3)) * [0.5, 1.0, 2.0]) * [1.0, -1.0, 1e6]


def expected(method, x):
    """Bounds as a textbook has them, for one column; fractions know no overflow."""
    if isinstance(x, list):
        if method == "quantiles":
            rank = [(len(x) - 1) * Fraction(level) for level in (0.01, 0.99)]
            x = sorted(x)
            return [float(x[int(r)] + (x[int(r) + 1] - x[int(r)]) * (r % 1)) for r in rank]
        mean = sum(x) / len(x)
        far = 10**400
        reach = 3 * Fraction(math.isqrt(int(sum((v - mean) ** 2 for v in x) / len(x) * far))) / 10**200
        return float(mean - reach), float(mean + reach)
    if method == "quantiles":
        return np.percentile(x, 1), np.percentile(x, 99)
    if method == "iqr":
        first, third = np.percentile(x, [25, 75])
        return first - 1.5 * (third - first), third + 1.5 * (third - first)
    if method == "mad":
        median = np.median(x)
        reach = 3 * np.median(np.abs(x - median)) / 0.6744897501960817
        return median - reach, median + reach
    return x.mean() - 3 * x.std(), x.mean() + 3 * x.std()


@pytest.mark.parametrize("method", ["quantiles", "iqr", "mad", "deviations"])
def test_bounds_are_those_of_the_textbook(method):
    x = skewed()
    clipper = Clipper(method).fit(x)
    for i in range(3):
        low, high = expected(method, x[:, i])
        assert clipper.lower_[i] == pytest.approx(low, rel=1e-12)
        assert clipper.upper_[i] == pytest.approx(high, rel=1e-12)
    inside = clipper.transform(x)
    np.testing.assert_array_equal(inside, np.minimum(np.maximum(x, clipper.lower_), clipper.upper_))
    assert not np.array_equal(inside, x)


@pytest.mark.parametrize("side", ["low", "high"])
def test_one_side_alone(side):
    clipper, both = Clipper(side=side).fit(skewed()), Clipper().fit(skewed())
    other, missing = ("upper_", math.inf) if side == "low" else ("lower_", -math.inf)
    kept = "lower_" if side == "low" else "upper_"
    assert (getattr(clipper, other) == missing).all()
    np.testing.assert_array_equal(getattr(clipper, kept), getattr(both, kept))


def test_given_bounds_for_all_by_position_and_by_name():
    x = np.array([[-5.0, 5.0], [0.0, 50.0]])
    np.testing.assert_array_equal(Clipper("given", low=-1).fit_transform(x), [[-1, 5], [0, 50]])
    listed = Clipper("given", low=[None, 6], high=[-2, None])
    np.testing.assert_array_equal(listed.fit_transform(x), [[-5, 6], [-2, 50]])
    frame = pd.DataFrame(x, columns=["a", "b"])
    named = Clipper("given", high={"b": 7})
    np.testing.assert_array_equal(named.fit_transform(frame), [[-5, 5], [0, 7]])
    assert named.bounds_ == Bounds({"a": (None, None), "b": (None, 7)})


def test_only_the_columns_asked_for():
    x = skewed()
    clipped = Clipper(columns=[-1]).fit_transform(x)
    np.testing.assert_array_equal(clipped[:, :2], x[:, :2])
    assert clipped[:, 2].max() < x[:, 2].max()
    frame = pd.DataFrame(x, columns=["a", "b", "c"])
    clipper = Clipper(columns=["b"]).fit(frame)
    assert list(clipper.bounds_) == ["b"]
    assert [one.column for one in clipper.report_] == ["b"]


def test_lists_of_bounds_follow_the_order_of_the_columns():
    frame = pd.DataFrame({"a": [-9.0, 9.0], "b": [-9.0, 9.0], "c": [0.0, 1.0]})
    clipper = Clipper("given", columns=["b", "a", "b"], low=[1, 2]).fit(frame)
    assert clipper.bounds_ == learn(frame, "given", columns=["b", "a"], low=[1, 2])
    assert list(clipper.bounds_.items()) == [("b", (1, math.inf)), ("a", (2, math.inf))]
    np.testing.assert_array_equal(clipper.transform(frame), [[2, 1, 0], [9, 9, 1]])
    assert [one.column for one in clipper.report_] == ["b", "a"]
    for other in (Clipper.from_json(clipper.to_json()), clone(clipper).partial_fit(frame)):
        assert list(other.bounds_.items()) == list(clipper.bounds_.items())
        np.testing.assert_array_equal(other.lower_, clipper.lower_)


def test_dates_and_times_are_no_numbers():
    days = pd.to_datetime(["2024-01-01", None])
    for when in (days, days.tz_localize("UTC"), days - days[0]):
        frame = pd.DataFrame({"x": [1.0, 2.0], "when": when})
        for made in (frame, pl.from_pandas(frame)):
            with pytest.raises(ArgumentError, match="column 'when' must be numbers, it is of type "):
                Clipper().fit(made)
    with pytest.raises(ArgumentError, match=r"column '1' must be numbers, it holds datetime.date\(2024"):
        Clipper().fit([[1.0, days[0].date()]])
    for array in (days.to_numpy()[:, None], (days - days[0]).to_numpy()[:, None]):
        with pytest.raises(ArgumentError, match=r"must be numbers, it is of type (datetime|timedelta)64"):
            Clipper().fit(array)
    fitted = Clipper().fit([[1.0], [2.0]])
    with pytest.raises(ArgumentError, match="must be numbers"):
        fitted.transform(days.to_numpy()[:, None])


def test_bounds_outside_the_type_of_the_data():
    x = np.array([[-1.0], [2.0], [np.inf]], dtype=np.float32)
    np.testing.assert_array_equal(Clipper("given", low=0, high=1e39).fit_transform(x).ravel(), [0, 2, np.inf])
    with pytest.raises(ArgumentError, match=r"column 'x0' .*float32.* none of them lies .* 1e\+39 and inf"):
        Clipper("given", low=1e39).fit(x)
    fitted = Clipper("given", high=-1e39).fit([[1.0]])
    with pytest.raises(ArgumentError, match="none of them lies"):
        fitted.transform(x)


def test_a_side_that_is_not_clipped_has_no_say():
    x = np.arange(1001.0).reshape(-1, 1)
    assert Clipper(low=0.995, side="low").fit(x).lower_[0] == pytest.approx(995)
    assert Clipper(high=0.005, side="high").fit(x).upper_[0] == pytest.approx(5)


def test_missing_values_stay_and_infinite_ones_are_clipped():
    x = np.array([[1.0], [np.nan], [2.0], [3.0], [np.inf], [-np.inf]])
    clipper = Clipper("quantiles", low=0.0, high=1.0).fit(x)
    np.testing.assert_array_equal(clipper.transform(x).ravel(), [1, np.nan, 2, 3, 3, 1])
    one = clipper.report_["x0"]
    assert (one.count, one.missing, one.below, one.above) == (5, 1, 1, 1)
    assert (one.smallest, one.largest) == (1.0, 3.0)
    with pytest.raises(ArgumentError, match="'x0' holds NaN or infinity"):
        Clipper(nan="error").fit(x)


def test_single_precision_stays_and_whole_numbers_become_double():
    x = skewed().astype(np.float32)
    clipper = Clipper().fit(x)
    out = clipper.transform(x)
    assert out.dtype == np.float32
    assert out.max(axis=0) == pytest.approx(clipper.upper_, rel=1e-6)
    assert Clipper().fit_transform(np.arange(10).reshape(-1, 1)).dtype == np.float64


def test_the_report_counts_both_sides():
    x = np.arange(100.0).reshape(-1, 1)
    clipper = Clipper("given", low=2.5, high=90).fit(x)
    one = clipper.report_["x0"]
    assert (one.below, one.above, one.share_below, one.share_above) == (3, 9, 0.03, 0.09)
    assert "clips 3 below (3.00%) and 9 above (9.00%) of 100" in str(clipper.report_)
    other = clipper.report([[0.0], [2.5], [5.0], [90.0], [95.0], [96.0]])["x0"]
    assert (other.below, other.above, other.count) == (1, 2, 6)  # what is at a bound is not clipped
    assert clipper.report_["x0"].count == 100


def test_names_and_frames_go_through():
    frame = pd.DataFrame(skewed(), columns=["a", "b", "c"])
    clipper = Clipper().fit(frame)
    assert list(clipper.get_feature_names_out()) == ["a", "b", "c"]
    for kind, library in (("pandas", pd), ("polars", pl)):
        made = clone(clipper).set_output(transform=kind).fit_transform(frame)
        assert isinstance(made, library.DataFrame)
        assert list(made.columns) == ["a", "b", "c"]
    np.testing.assert_array_equal(Clipper().fit(pl.from_pandas(frame)).upper_, clipper.upper_)
    assert make_pipeline(Clipper("iqr"), StandardScaler()).fit_transform(frame).shape == frame.shape


@pytest.mark.parametrize("method", ["quantiles", "iqr", "mad", "deviations"])
def test_batches_that_the_sketch_holds_give_what_all_at_once_does(method):
    x = skewed()
    x[5, 1], x[6, 2] = np.nan, np.inf
    batches = Clipper(method)
    for part in np.array_split(x, 7):
        batches.partial_fit(part)
    at_once = Clipper(method).fit(x)
    np.testing.assert_allclose(batches.lower_, at_once.lower_, rtol=1e-12)
    np.testing.assert_allclose(batches.upper_, at_once.upper_, rtol=1e-12)
    assert batches.rank_error_ == 0.0
    assert [(o.below, o.above, o.count, o.missing) for o in batches.report_] == [
        (o.below, o.above, o.count, o.missing) for o in at_once.report_
    ]


def test_batches_beyond_it_stay_within_the_stated_rank_error():
    generator = np.random.default_rng(1)
    clipper = Clipper(low=0.01, high=0.99, rank_error=0.002)
    parts = [np.exp(generator.normal(size=(20_000, 1)) * 3) for _ in range(10)]
    for part in parts:
        clipper.partial_fit(part)
    x = np.sort(np.concatenate(parts).ravel())
    assert 0 < clipper.rank_error_ <= 0.002
    for level, bound in ((0.01, clipper.lower_[0]), (0.99, clipper.upper_[0])):
        rank = np.searchsorted(x, bound) / len(x)
        assert abs(rank - level) <= clipper.rank_error_
    one = clipper.report_["x0"]
    assert clipper.report_.rank_error == clipper.rank_error_
    assert abs(one.share_below - 0.01) <= 0.004
    assert abs(one.share_above - 0.01) <= 0.004
    assert (one.smallest, one.largest, one.count) == (x[0], x[-1], len(x))


@pytest.mark.parametrize("method", ["quantiles", "iqr", "mad", "deviations"])
def test_parts_learnt_on_several_machines_are_merged_in_any_order(method):
    x = skewed()
    x[5, 1], x[6, 2] = np.nan, np.inf
    parts = [Clipper(method).partial_fit(part) for part in np.array_split(x, 5)]
    at_once = Clipper(method).fit(x)
    for order in ((0, 1, 2, 3, 4), (4, 1, 3, 0, 2)):
        one, *others = (pickle.loads(pickle.dumps(parts[place])) for place in order)
        assert one.merge(*others[:1]).merge(*others[1:]) is one
        np.testing.assert_allclose(one.lower_, at_once.lower_, rtol=1e-12)
        np.testing.assert_allclose(one.upper_, at_once.upper_, rtol=1e-12)
        assert [(o.below, o.above, o.count, o.missing) for o in one.report_] == [
            (o.below, o.above, o.count, o.missing) for o in at_once.report_
        ]
        assert others[0].report_["x0"].count == parts[order[1]].report_["x0"].count


def test_merged_parts_beyond_what_a_sketch_holds_stay_within_the_stated_rank_error():
    x = np.exp(np.random.default_rng(1).normal(size=(60_000, 1)) * 3)
    first, *others = (Clipper(low=0.01, rank_error=0.005).partial_fit(part) for part in np.array_split(x, 6))
    first.merge(*reversed(others))
    assert 0 < first.rank_error_ <= 0.005
    assert abs((x <= first.lower_[0]).mean() - 0.01) <= 0.005
    assert first.report_["x0"].count == len(x)


def test_what_cannot_be_merged_is_refused_and_leaves_no_trace():
    x = skewed()
    clipper = Clipper().partial_fit(x)
    bounds = clipper.bounds_
    named = Clipper().partial_fit(pd.DataFrame(x, columns=["a", "b", "c"]))
    for other, message in (
        (Clipper().fit(x), "fitted by partial_fit"),
        (bounds, "fitted by partial_fit"),
        (Clipper(low=0.2).partial_fit(x), r"low=0\.2, this one None"),
        (Clipper(rank_error=0.1).partial_fit(x), r"rank_error=0\.1"),
        (named, r"the columns \['a', 'b', 'c'\], this one \['x0', 'x1', 'x2'\]"),
    ):
        with pytest.raises(ArgumentError, match=message):
            clipper.merge(Clipper().partial_fit(x), other)
    with pytest.raises(ArgumentError, match="fitted by partial_fit"):
        Clipper().merge(clipper)
    assert clipper.bounds_ == bounds
    assert clipper.report_["x0"].count == len(x)


HUGE = [1.0, 2.0, 3.0, 1e300, -1e170, 2.5]


@pytest.mark.parametrize("method", ["quantiles", "deviations"])
def test_batches_with_a_huge_value_give_what_all_at_once_does(method):
    x = np.array(HUGE).reshape(-1, 1)
    batches = Clipper(method).partial_fit(x[:3]).partial_fit(x[3:])
    for clipper in (batches, Clipper(method).fit(x)):
        low, high = expected(method, [Fraction(value) for value in HUGE])
        assert clipper.lower_[0] == pytest.approx(low, rel=1e-12)
        assert clipper.upper_[0] == pytest.approx(high, rel=1e-12)


def test_bounds_beyond_every_number_are_refused_and_leave_no_trace():
    x = np.array([[1.0], [2.0], [3.0], [1.797e308]])
    with pytest.raises(ArgumentError, match=r"column 'x0': .*'deviations' .*-inf and inf"):
        Clipper("deviations").fit(x)
    clipper = Clipper("deviations").partial_fit(x[:3])
    bounds = clipper.bounds_
    with pytest.raises(ArgumentError, match="'deviations'"):
        clipper.partial_fit(x[3:])
    assert (clipper.bounds_, clipper.report_["x0"].count) == (bounds, 3)
    np.testing.assert_array_equal(clipper.partial_fit(x[:1]).report_["x0"].count, 4)


def test_batches_may_be_read_only():
    x = skewed()
    x.setflags(write=False)
    np.testing.assert_allclose(Clipper().partial_fit(x).upper_, Clipper().fit(x).upper_)


def test_partial_fit_goes_on_after_pickling_and_begins_anew_after_fit():
    x = skewed()
    half = pickle.loads(pickle.dumps(Clipper().partial_fit(x[:500])))
    np.testing.assert_array_equal(half.partial_fit(x[500:]).upper_, Clipper().partial_fit(x).upper_)
    fitted = Clipper().fit(x[:500])
    with pytest.warns(UserWarning, match="starts from the beginning"):
        fitted.partial_fit(x[500:])
    np.testing.assert_allclose(fitted.upper_, Clipper().fit(x[500:]).upper_)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fitted.fit(x)
    assert fitted.report_["x0"].count == 1000


@pytest.mark.parametrize(
    "clipper",
    [
        Clipper(),
        Clipper("given", low={"a": 0.1}, high=[None, 1 / 3, 2]),
        Clipper("given", low=-math.inf, high=(np.float64("inf"), 1, np.inf)),
        Clipper("mad", factor=np.float64(2.5), columns=("c", "a"), side="high"),
        Clipper("deviations", columns=np.array([0, 2])),
    ],
    ids=repr,
)
def test_json_and_back(clipper):
    frame = pd.DataFrame(skewed(), columns=["a", "b", "c"])
    text = clipper.fit(frame).to_json()
    assert "Infinity" not in text
    assert "NaN" not in text
    assert json.loads(text)["bounds"]
    back = Clipper.from_json(text)
    pd.testing.assert_frame_equal(
        back.set_output(transform="pandas").transform(frame),
        clipper.set_output(transform="pandas").transform(frame),
    )
    assert back.report_ == clipper.report_
    assert back.bounds_ == clipper.bounds_
    assert list(back.get_feature_names_out()) == ["a", "b", "c"]
    assert Bounds.from_json(text) == clipper.bounds_
    clone(back).fit(frame)
    with pytest.raises(ValueError, match="feature"):
        back.transform(frame[["b", "a", "c"]])


def test_json_of_an_array_and_of_something_else():
    x = skewed()
    back = Clipper.from_json(Clipper().partial_fit(x).to_json())
    np.testing.assert_array_equal(back.transform(x), Clipper().partial_fit(x).transform(x))
    for text, says in (
        ("{", "no JSON"),
        ("[]", '"bounds"'),
        ('{"bounds": {"x0": [0, 1]}}', "not of a Clipper"),
    ):
        with pytest.raises(ArgumentError, match=says):
            Clipper.from_json(text)
    with pytest.raises(ArgumentError, match="no JSON"):
        Bounds.from_json(None)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"method": "quantile"}, "unknown method 'quantile'. Did you mean 'quantiles'"),
        ({"low": 0.9, "high": 0.1}, r"crossed, low=0.9 is above high=0.1"),
        ({"low": -0.1}, r"low must be a quantile in \[0, 1\], got -0.1"),
        ({"high": 99}, r"high must be a quantile in \[0, 1\], got 99"),
        ({"low": math.nan}, "low must be a quantile"),
        ({"method": "given"}, "needs low="),
        ({"method": "given", "low": 1, "side": "high"}, "needs low="),
        (
            {"method": "given", "low": 2, "high": 1},
            "column 'x0': the bounds are crossed, low=2.0 is above high=1.0",
        ),
        ({"method": "given", "low": [1, 2]}, "low holds 2 bounds, for 3 columns"),
        ({"method": "given", "low": {"x9": 2}}, "low: no column 'x9'"),
        ({"method": "given", "low": [0, "a", 0]}, "column 'x1': low must be a number or None, got 'a'"),
        (
            {"method": "given", "high": [0, math.nan, 0]},
            "column 'x1': high must be a number or None, got nan",
        ),
        ({"method": "given", "low": "all"}, "low must be a number, one per column"),
        ({"method": "given", "low": math.inf}, "no finite value lies between"),
        ({"method": "iqr", "low": 1}, "'iqr' takes a factor"),
        ({"method": "iqr", "factor": 0}, "factor must be a number above 0, got 0"),
        ({"method": "mad", "factor": True}, "factor must be a number above 0"),
        ({"factor": 2}, "takes low and high"),
        ({"side": "left"}, "side must be"),
        ({"nan": "drop"}, "nan must be"),
        ({"columns": ["x7"]}, "no column 'x7'"),
        ({"columns": [3]}, "no column 3 among 3"),
    ],
)
def test_a_mistake_is_named(arguments, says):
    with pytest.raises(ArgumentError, match=says):
        Clipper(**arguments).fit(skewed(50))
    with pytest.raises(ArgumentError, match=says):
        Clipper(**arguments).partial_fit(skewed(50))


@pytest.mark.parametrize("error", [1e-9, 0.5, -1, math.nan, "small", True])
def test_a_rank_error_that_no_sketch_has(error):
    with pytest.raises(ArgumentError, match="rank_error must be"):
        Clipper(rank_error=error).partial_fit(skewed(50))


def test_an_empty_column_is_named():
    x = skewed(20)
    x[:, 1] = np.nan
    for method in ("quantiles", "iqr", "mad", "deviations"):
        with pytest.raises(ArgumentError, match="column 'x1' is empty"):
            Clipper(method).fit(x)
        with pytest.raises(ArgumentError, match="column 'x1' is empty"):
            Clipper(method).partial_fit(x)
    Clipper("given", low=0).fit(x)
    Clipper(columns=[0, 2]).fit(x)


def test_a_batch_that_is_refused_leaves_no_trace():
    clipper = Clipper().partial_fit(skewed(50))
    bounds = clipper.bounds_
    with pytest.raises(ArgumentError, match="must be numbers"):
        clipper.partial_fit([[1.0, "two", 3.0]])
    assert clipper.bounds_ == bounds
    assert clipper.report_["x0"].count == 50


def test_text_in_a_column_of_numbers_is_named():
    frame = pd.DataFrame({"a": [1.0, 2.0], "amount": ["3", "12,50"]})
    with pytest.raises(ArgumentError, match="column 'amount' must be numbers, it holds '12,50' in row 2"):
        Clipper().fit(frame)
    with pytest.raises(ArgumentError, match="column 'amount' must be numbers"):
        Clipper().fit(pl.from_pandas(frame))
    with pytest.raises(ArgumentError, match="column '1' must be numbers, it holds 'b' in row 1"):
        Clipper().fit(np.array([[1, "b"]], dtype=object))


def test_a_column_of_mostly_one_value_warns():
    x = np.zeros((100, 1))
    x[:20, 0] = np.arange(20)
    with pytest.warns(UserWarning, match="'x0': method 'iqr' sets all values to 0.0"):
        Clipper("iqr").fit(x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Clipper("iqr").fit(np.ones((10, 1)))


def test_deviations_of_huge_and_of_far_off_values():
    """Squares that leave the range of a double, and a spread far below the mean."""
    huge = np.array([[1e200], [-1e200], [3e200]])
    high = 1e200 + 3 * 1.632993161855452e200
    assert Clipper("deviations").fit(huge).upper_[0] == pytest.approx(high, rel=1e-12)
    far = 1e9 + np.arange(1000.0).reshape(-1, 1)
    streamed = Clipper("deviations").partial_fit(far[:3]).partial_fit(far[3:])
    assert streamed.upper_[0] - 1e9 == pytest.approx(499.5 + 3 * 288.6749902572095, rel=1e-6)
