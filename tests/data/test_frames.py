"""Bounds on frames: each engine with its own kind of frame, against plain Python."""

import math

import dask.dataframe as dd
import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from clipwise.data import Bounds, Clipper, clip, learn, report
from clipwise.data._extra import load
from clipwise.errors import ArgumentError

NAN, INF = math.nan, math.inf

DOUBLE = [-5.0, 1.0, NAN, None, 7.0, 3.0, INF, -INF]
WHOLE = [-5, 1, 2, None, 7, 3, 100, -100]
SMALL = [0, 1, 2, 3, 7, 3, 255, 9]
TEXT = list("abcdefgh")

TABLE = pl.DataFrame(
    {
        "double": pl.Series(DOUBLE, dtype=pl.Float64),
        "single": pl.Series(DOUBLE, dtype=pl.Float32),
        "whole": pl.Series(WHOLE, dtype=pl.Int64),
        "small": pl.Series(SMALL, dtype=pl.UInt8),
        "text": TEXT,
    }
)


def as_duckdb(table):
    arrow = table.to_arrow()  # noqa: F841, DuckDB finds it by name
    return duckdb.connect().sql("SELECT * FROM arrow")


def as_pandas(table):
    return table.to_arrow().to_pandas(types_mapper={pa.int64(): pd.Int64Dtype()}.get)


ENGINES = {
    "pandas": as_pandas,
    "pandas-arrow": lambda table: table.to_pandas(use_pyarrow_extension_array=True),
    "polars": lambda table: table,
    "polars-lazy": lambda table: table.lazy(),
    "pyarrow": lambda table: table.to_arrow(),
    "duckdb": as_duckdb,
    "dask": lambda table: dd.from_pandas(as_pandas(table), npartitions=3),
}


def columns_of(frame):
    """Any frame as lists, NaN as the text "nan" so that it can be compared; pandas calls nulls NaN too."""
    if isinstance(frame, pl.LazyFrame):
        frame = frame.collect()
    elif isinstance(frame, duckdb.DuckDBPyRelation):
        frame = pl.from_arrow(frame.to_arrow_table())
    elif isinstance(frame, dd.DataFrame):
        frame = frame.compute()
    if isinstance(frame, pl.DataFrame):
        frame = frame.to_arrow()
    lists = frame.to_pydict() if isinstance(frame, pa.Table) else frame.astype(object).to_dict("list")

    def plain(value):
        if value is None or value is pd.NA:
            return "null"
        return "nan" if value != value else value

    return {name: [plain(value) for value in values] for name, values in lists.items()}


def merged(columns, engine):
    """pandas and Dask keep nulls of numpy's columns as NaN, pandas on Arrow takes NaN for nulls."""
    if not engine.startswith(("pandas", "dask")):
        return columns
    return {
        name: ["null" if value == "nan" else value for value in values] for name, values in columns.items()
    }


@pytest.fixture(params=ENGINES)
def engine(request):
    return request.param


def test_values_come_within_bounds_and_the_rest_stays(engine):
    frame = ENGINES[engine](TABLE)
    bounds = {"double": (-1.5, 4.5), "single": (-1.5, None), "whole": (-2.5, 4.5), "small": (-3, 200.5)}
    out = clip(frame, bounds)
    assert type(out) is type(frame)
    assert merged(columns_of(out), engine) == merged(
        {
            "double": [-1.5, 1.0, "nan", "null", 4.5, 3.0, 4.5, -1.5],
            "single": [-1.5, 1.0, "nan", "null", 7.0, 3.0, INF, -1.5],
            "whole": [-2, 1, 2, "null", 4, 3, 4, -2],
            "small": [0, 1, 2, 3, 7, 3, 200, 9],
            "text": TEXT,
        },
        engine,
    )
    assert columns_of(frame) == columns_of(ENGINES[engine](TABLE)), "the frame itself was changed"


def types_of(frame):
    if isinstance(frame, pl.LazyFrame):
        return dict(frame.collect_schema())
    if isinstance(frame, duckdb.DuckDBPyRelation):
        return dict(zip(frame.columns, map(str, frame.types), strict=True))
    if isinstance(frame, pa.Table):
        return {field.name: field.type for field in frame.schema}
    return dict(zip(frame.columns, frame.dtypes, strict=True))


def test_columns_keep_their_types_and_order(engine):
    frame = ENGINES[engine](TABLE)
    out = clip(frame, {"small": (1, 2.9), "single": (0.1, 0.3), "whole": (0.5, 9), "double": (0, 1)})
    assert types_of(out) == types_of(frame)
    assert list(types_of(out)) == TABLE.columns


@pytest.mark.parametrize("method", ["quantiles", "iqr", "mad", "deviations"])
def test_bounds_learnt_by_the_engine_are_those_of_the_transformer(engine, method):
    generator = np.random.default_rng(0)
    x = np.exp(generator.normal(size=(200, 2)) * [1.0, 3.0])
    x[3, 0], x[4, 1], x[7, 1] = NAN, INF, -INF
    table = pl.DataFrame(x, schema=["a", "b"]).with_columns(n=pl.int_range(200), text=pl.lit("t"))
    found = learn(ENGINES[engine](table), method)
    expected = Clipper(method).fit(np.column_stack([x, np.arange(200)]))
    assert list(found) == ["a", "b", "n"]
    np.testing.assert_allclose([low for low, _ in found.values()], expected.lower_, rtol=1e-9)
    np.testing.assert_allclose([high for _, high in found.values()], expected.upper_, rtol=1e-9)


def test_huge_and_tiny_values_have_deviations_too(engine):
    """Their squares leave the range of a double."""
    x = np.array([[1.0, 1e-170], [2.0, 2e-170], [3.0, 4e-170], [1e170, 8e-170]])
    found = learn(ENGINES[engine](pl.DataFrame(x, schema=["a", "b"])), "deviations")
    expected = Clipper("deviations").fit(x)
    np.testing.assert_allclose(list(found.values()), np.c_[expected.lower_, expected.upper_], rtol=1e-9)
    assert learn(ENGINES[engine](pl.DataFrame({"a": [2.0, 2.0]})), "deviations")["a"] == (2.0, 2.0)
    huge = pl.DataFrame({"a": [1.0, 2.0, 1.797e308]})
    assert learn(ENGINES[engine](huge), low=0.0, high=0.5)["a"] == (1.0, 2.0)
    with pytest.raises(ArgumentError, match=r"column 'a': .* beyond the range"):
        learn(ENGINES[engine](huge), "deviations")


def test_whole_numbers_beyond_the_digits_of_a_double_stay(engine):
    large = list(range(2**60, 2**60 + 50))
    frame = ENGINES[engine](pl.DataFrame({"i": large}))
    assert columns_of(clip(frame, learn(frame, low=0.0, high=1.0)))["i"] == large
    bounds = {"i": (2**60 + 3, 2**60 + 45)}
    assert columns_of(clip(frame, bounds))["i"] == np.clip(large, *bounds["i"]).tolist()


def test_bounds_beyond_the_range_of_a_column(engine):
    frame = ENGINES[engine](pl.DataFrame({"x": pl.Series([-1.0, 2.0, INF], dtype=pl.Float32)}))
    assert columns_of(clip(frame, {"x": (0, 1e39)}))["x"] == [0.0, 2.0, INF]
    with pytest.raises(ArgumentError, match="column 'x' holds float32 numbers"):
        clip(frame, {"x": (1e39, None)})


def test_the_report_is_counted_by_the_engine(engine):
    found = report(
        ENGINES[engine](TABLE), {"double": (-1.5, 4.5), "whole": (None, 4.5), "small": (None, 500)}
    )
    one = found["double"]
    assert (one.count, one.missing, one.below, one.above) == (6, 2, 2, 2)
    assert (one.smallest, one.largest) == (-5.0, 7.0)
    one = found["whole"]
    assert (one.count, one.missing, one.below, one.above) == (7, 1, 0, 2)
    assert (one.low, one.high, one.smallest, one.largest) == (-INF, 4.5, -100, 100)
    one = found["small"]
    assert (one.count, one.missing, one.below, one.above) == (8, 0, 0, 0)


def test_an_empty_column_is_named(engine):
    table = pl.DataFrame({"a": [1.0, 2.0], "none": pl.Series([None, NAN], dtype=pl.Float64)})
    for method in ("quantiles", "mad", "deviations"):
        with pytest.raises(ArgumentError, match="column 'none' is empty"):
            learn(ENGINES[engine](table), method)
    one = report(ENGINES[engine](table), {"none": (0, 1)})["none"]
    assert (one.count, one.missing, one.below, one.above) == (0, 2, 0, 0)
    assert math.isnan(one.smallest)


def test_text_and_unknown_columns_are_named(engine):
    frame = ENGINES[engine](TABLE)
    with pytest.raises(ArgumentError, match="column 'text' must be floats or whole numbers, it is String"):
        clip(frame, {"text": (0, 1)})
    with pytest.raises(ArgumentError, match="column 'text' must be floats or whole numbers"):
        learn(frame, columns=["double", "text"])
    with pytest.raises(ArgumentError, match=r"no column 'doubel' in this frame. Did you mean 'double'"):
        clip(frame, {"doubel": (0, 1)})
    with pytest.raises(ArgumentError, match=r"'whole' holds whole numbers .* none of them lies between"):
        clip(frame, {"whole": (1.2, 1.8)})
    with pytest.raises(ArgumentError, match="'small' holds whole numbers from 0 to 255"):
        clip(frame, {"small": (-7, -3)})


def test_bounds_of_a_transformer_serve_a_frame(engine):
    train = TABLE.select("double").head(2).to_pandas()
    clipper = Clipper("quantiles", low=0.0, high=1.0).fit(train)
    out = columns_of(clip(ENGINES[engine](TABLE), clipper))
    assert out["double"][0] == -5.0
    assert out["double"][4:] == [1.0, 1.0, 1.0, -5.0]


def test_a_lazy_frame_stays_lazy():
    """Work that would fail when it is done is not done yet."""

    def explode(series, **options):
        raise RuntimeError("this was computed")

    frame = TABLE.lazy().with_columns(pl.col("double").map_batches(explode, return_dtype=pl.Float64))
    out = clip(frame, {"double": (0, 1)})
    with pytest.raises((RuntimeError, pl.exceptions.ComputeError), match="this was computed"):
        out.collect()

    def explode_part(part):
        if len(part):
            raise RuntimeError("this was computed")
        return part

    parts = dd.from_pandas(as_pandas(TABLE), npartitions=2)
    parts = parts.map_partitions(explode_part, meta=parts._meta)
    out = clip(parts, {"double": (0, 1)})
    with pytest.raises(RuntimeError, match="this was computed"):
        out.compute()

    connection = duckdb.connect()
    relation = connection.sql(
        "SELECT CASE WHEN i > 5 THEN error('this was computed') ELSE i END AS i FROM range(9) t(i)"
    )
    relation = relation.project("i::BIGINT AS i")
    out = clip(relation, {"i": (0, 1)})
    with pytest.raises(duckdb.Error, match="this was computed"):
        out.fetchall()


def test_dask_has_its_partitions_sketched_within_the_stated_error():
    x = np.exp(np.random.default_rng(2).normal(size=60_000) * 3)
    frame = dd.from_pandas(pd.DataFrame({"x": x}), npartitions=6)
    low, high = learn(frame, low=0.05, high=0.95, rank_error=0.005)["x"]
    for level, bound in ((0.05, low), (0.95, high)):
        assert abs((x <= bound).mean() - level) <= 0.005


def test_given_bounds_one_side_and_columns_in_a_frame():
    assert learn(TABLE, "given", columns=["double"], high=2) == Bounds({"double": (None, 2)})
    found = learn(TABLE, "given", columns=["double", "whole"], low={"whole": 1}, high=[5, None])
    assert found == Bounds({"double": (None, 5), "whole": (1, None)})
    assert learn(TABLE, columns=["small"], side="low", low=0.0) == Bounds({"small": (0, None)})


LABELS = {
    "tuples": pd.MultiIndex.from_tuples([("a", "x"), ("a", "y"), ("b", "x"), ("b", "y")]),
    "numbers": [0, 1, 2, 7],
    "both": ["0", 0, ("a", 1), None],
}


@pytest.mark.parametrize("labels", LABELS)
@pytest.mark.parametrize("engine", ["pandas", "dask"])
def test_labels_that_are_no_text(engine, labels):
    if (engine, labels) == ("dask", "tuples"):
        pytest.skip("Dask has no such columns")
    plain = pd.DataFrame(np.exp(np.random.default_rng(0).normal(size=(50, 4))))
    frame = plain.set_axis(LABELS[labels], axis=1)
    given = frame if engine == "pandas" else dd.from_pandas(frame, npartitions=2)
    bounds = learn(given, "iqr")
    assert list(bounds) == list(frame.columns)
    expected = Clipper("iqr").fit(plain.to_numpy())
    np.testing.assert_allclose(list(bounds.values()), np.c_[expected.lower_, expected.upper_], rtol=1e-12)
    out = clip(given, bounds)
    out = out if engine == "pandas" else out.compute()
    pd.testing.assert_index_equal(out.columns, frame.columns)
    np.testing.assert_allclose(out.to_numpy(), expected.transform(plain.to_numpy()), rtol=1e-12)
    assert list(given.columns) == list(frame.columns), "the frame itself was changed"
    one = report(given, bounds)[frame.columns[2]]
    assert one.above == expected.report_["x2"].above
    assert Bounds.from_json(bounds.to_json()) == bounds
    last = frame.columns[-1]
    assert list(learn(given, "given", columns=[last], low={last: 1})) == [last]
    with pytest.raises(ArgumentError, match=r"no column \('b', 'z'\) in this frame"):
        clip(given, {("b", "z"): (0, 1)})


def test_labels_that_json_does_not_hold():
    bounds = Bounds({pd.Timestamp("2024-01-01"): (0, 1)})
    with pytest.raises(ArgumentError, match=r"column Timestamp\(.*: JSON holds labels of text and numbers"):
        bounds.to_json()


def test_two_columns_of_one_name_are_refused():
    frame = pd.DataFrame([[1.0, 2.0, 3.0]], columns=["a", "b", "b"])
    for work in (
        lambda: learn(frame),
        lambda: clip(frame, {"a": (0, 1)}),
        lambda: report(frame, {"a": (0, 1)}),
    ):
        with pytest.raises(ArgumentError, match="two columns of this frame are called 'b'"):
            work()


def test_mistakes_in_the_arguments():
    with pytest.raises(ArgumentError, match=r"expected a frame of pandas.*got builtins.dict"):
        clip({"a": [1]}, {"a": (0, 1)})
    with pytest.raises(
        ArgumentError, match="expected Bounds, a mapping by column or a fitted Clipper, got 3"
    ):
        clip(TABLE, 3)
    with pytest.raises(
        ArgumentError, match=r"column 'double': the bounds are crossed, low=2.0 is above high=1.0"
    ):
        clip(TABLE, {"double": (2, 1)})
    with pytest.raises(ArgumentError, match="column 'double': expected a pair"):
        clip(TABLE, {"double": 2})
    with pytest.raises(ArgumentError, match="column 'double': low must be a number or None, got 'a'"):
        clip(TABLE, {"double": ("a", 1)})
    with pytest.raises(ArgumentError, match="columns must be a list of names, got the string 'double'"):
        learn(TABLE, columns="double")
    with pytest.raises(ArgumentError, match="columns must name at least one column"):
        learn(TABLE, columns=[])
    with pytest.raises(ArgumentError, match="no column of floats or whole numbers among 'text'"):
        learn(TABLE.select("text"))
    money = pl.DataFrame({"m": ["1.50"]}).with_columns(pl.col("m").cast(pl.Decimal(10, 2)))
    with pytest.raises(ArgumentError, match=r"column 'm' .*cast it to a float first"):
        clip(money, {"m": (0, 1)})
    assert list(learn(money.with_columns(x=pl.lit(1.0)))) == ["x"]


@pytest.mark.parametrize(("name", "how"), [("nosuchpackage", ""), ("narwhals.stable.v99", "-U ")])
def test_what_is_not_installed_is_named_with_the_way_to_it(name, how):
    with pytest.raises(ModuleNotFoundError, match=rf"needs {name}, .*pip install {how}.clipwise\[data\]"):
        load(name)


def test_no_bounds_change_nothing():
    assert clip(TABLE, {}).equals(TABLE)
    assert clip(TABLE, {"double": (None, None)}).equals(TABLE)
