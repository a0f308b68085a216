"""What a file says of its columns: which are numbers, which types stay, what the largest numbers are."""

import datetime as dt
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipwise.data import clip_file
from clipwise.errors import ArgumentError, DataError
from tests.data.test_files import refused

PLACES = "in.parquet", "out.parquet"
NOON = dt.datetime(2024, 1, 1, 12, 0, 0, 123000)

KEPT = {
    "zone": pa.array([NOON, None], pa.timestamp("us", "Europe/London")),
    "nanos": pa.array([NOON, None], pa.timestamp("ns")),
    "duration": pa.array([1, None], pa.duration("ms")),
    "category": pa.array(["a", None]).dictionary_encode(),
    "long": pa.array(["a", None], pa.large_string()),
    "pairs": pa.array([[1, 2], None], pa.list_(pa.int8(), 2)),
    "struct": pa.array([{"a": 1, "b": "x"}, None]),
    "map": pa.array([[("k", 1)], None], pa.map_(pa.string(), pa.int32())),
    "decimals": pa.array([[Decimal("9.9")], None]),
}
WIDER = {
    "half": (pa.array([9.5, None], pa.float16()), pa.float32()),
    "millis": (pa.array([NOON, None], pa.timestamp("ms")), pa.timestamp("us")),
    "time": (pa.array([NOON.time(), None], pa.time32("ms")), pa.time64("us")),
    "day": (pa.array([NOON.date(), None], pa.date64()), pa.date32()),
    "fixed": (pa.array([b"ab", None], pa.binary(2)), pa.binary()),
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(**columns):
    pq.write_table(pa.table(columns), "in.parquet")


def test_values_of_every_type_stay_and_most_types(folder):
    table = pa.table({"x": pa.array([1.0, 9.0])} | KEPT | {name: array for name, (array, _) in WIDER.items()})
    pq.write_table(table.replace_schema_metadata({"mine": "it's\xe4"}), "in.parquet")
    clip_file(*PLACES, "given", high=5)
    after = pq.read_table("out.parquet")
    assert after.column_names == table.column_names
    for name, array in KEPT.items():
        assert after[name].type == array.type, name
        assert after[name].to_pylist() == array.to_pylist(), name
    for name, (array, wider) in WIDER.items():
        assert after[name].type == wider, name
        values = [5.0, None] if name == "half" else array.to_pylist()
        assert after[name].to_pylist() == values, name
    assert after["x"].to_pylist() == [1.0, 5.0]
    assert after.schema.metadata[b"mine"].decode() == "it's\xe4"
    assert pl.read_parquet("out.parquet").schema["duration"] == pl.Duration("ms")


def test_the_index_of_pandas_stays(folder):
    frame = pd.DataFrame({"x": [1.0, 9.0]}, index=pd.Index(["a", "b"], name="key"))
    frame.to_parquet("in.parquet")
    clip_file(*PLACES, "given", high=5)
    pd.testing.assert_frame_equal(pd.read_parquet("out.parquet"), frame.clip(upper=5))


def test_only_numbers_count_as_numbers(folder):
    write(x=[1.0], **{name: KEPT[name][:1] for name in ("duration", "decimals")})
    assert list(clip_file(*PLACES, low=0, high=1).bounds) == ["x"]
    for name, kind in (("duration", r"duration\[ms\]"), ("decimals", "list<")):
        says = f"column '{name}' must be numbers, it is of type {kind}"
        refused(folder, ArgumentError, says, "in.parquet", "new.parquet", columns=[name])


@pytest.mark.parametrize(
    ("arrays", "names", "says"),
    [
        ([[1], [2]], ["a", "A"], "columns 'a' and 'A' differ only in case"),
        ([[1], [2]], ["a", "a"], "columns 'a' and 'a' differ only in case"),
        ([[1], [{"b": 1, "B": 2}]], ["x", "s"], "column 's' is of type struct<b: int64, B: int64>"),
        (
            [[1], pa.array([Decimal("1" * 45)], pa.decimal256(50, 2))],
            ["x", "d"],
            r"column 'd' is of type decimal256\(50, 2\), and DuckDB would make double of it",
        ),
    ],
    ids=["case", "twice", "struct", "decimal"],
)
def test_columns_that_would_not_stay_are_refused(folder, arrays, names, says):
    pq.write_table(pa.table([pa.array(array) for array in arrays], names=names), "in.parquet")
    refused(folder, DataError, says, *PLACES, {names[0]: (0, 1)})


def test_whole_numbers_beyond_the_digits_of_a_double(folder):
    large = list(range(2**60, 2**60 + 100))
    money = [Decimal(f"{10**15 + i}.{i:02}") for i in range(100)]
    write(large=large, constant=[2**60 + 1] * 100, money=pa.array(money, pa.decimal128(20, 2)))
    before = pq.read_table("in.parquet").to_pydict()
    assert clip_file(*PLACES, low=0, high=1).report["large"].above == 0
    assert pq.read_table("out.parquet").to_pydict() == before
    clip_file(*PLACES, "iqr", columns=["constant"], force=True)
    assert pq.read_table("out.parquet").to_pydict() == before
    for bounds in ({"large": (2**60 + 3, 2**60 + 5)}, {"large": (np.int64(2**60 + 3), 2**60 + 5)}):
        done = clip_file(*PLACES, bounds, force=True)
        assert pq.read_table("out.parquet")["large"].to_pylist() == np.clip(large, *bounds["large"]).tolist()
        again = type(done.bounds).from_json(done.bounds.to_json())
        assert again["large"] == (2**60 + 3, 2**60 + 5)
    clip_file(*PLACES, "given", columns=["large"], low=2**60 + 3, force=True)
    assert pq.read_table("out.parquet")["large"].to_pylist()[:5] == [2**60 + max(i, 3) for i in range(5)]


def test_bounds_beyond_the_range_of_a_column(folder):
    write(single=pa.array([-1.0, 2.0], pa.float32()))
    clip_file(*PLACES, {"single": (0, 1e39)})
    assert pq.read_table("out.parquet")["single"].to_pylist() == [0.0, 2.0]
    says = r"column 'single' holds float32 numbers .* none of them lies between the bounds 1e\+39 and inf"
    refused(folder, ArgumentError, says, "in.parquet", "new.parquet", {"single": (1e39, None)})
    assert not Path("new.parquet").exists()
