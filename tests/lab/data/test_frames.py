"""Tables: read as they are, refused in one sentence."""

import lzma
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

from clipwise.errors import DataError
from clipwise.lab.data.frames import numbers, read_csv, require_columns, times


def write(tmp_path: Path, text: str, name: str = "t.csv") -> Path:
    path = tmp_path / name
    path.write_text(text)
    return path


def test_a_number_may_turn_to_a_fraction_late(tmp_path: Path) -> None:
    rows = "\n".join(["1"] * 2000 + ["2.5"])
    assert read_csv(write(tmp_path, f"a\n{rows}\n"))["a"].sum() == 2002.5


def test_xz_and_missing_values(tmp_path: Path) -> None:
    path = tmp_path / "t.csv.xz"
    path.write_bytes(lzma.compress(b"a,b\n1,NA\n,x\n"))
    assert read_csv(path).rows() == [(1, None), (None, "x")]


def test_a_key_that_looks_like_a_number_may_stay_text(tmp_path: Path) -> None:
    assert read_csv(write(tmp_path, "k\n007\n"), text_columns=["k"])["k"].to_list() == ["007"]


@pytest.mark.parametrize(("content", "message"), [
    (b"", "the file is empty"),
    (b" \n", "the file is empty"),
    (b"a,b\n", "a header and no rows"),
    (b"\x89PNG\r\n\0\0\0", "a binary file"),
    (b"a,b\n1\n1,2,3\n", "no CSV table"),
])  # fmt: skip
def test_what_is_no_table(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read_csv(tmp_path / "t.csv")
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_broken_xz(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read_csv(tmp_path / "t.csv")
    with pytest.raises(DataError, match="not an xz file"):
        read_csv(write(tmp_path, "a\n1\n", "t.csv.xz"))


def test_a_column_that_is_not_there_names_the_nearest() -> None:
    frame = pl.DataFrame({"customer": [1], "amount": [2]})
    with pytest.raises(DataError) as caught:
        require_columns(frame, [("sequence_key", "custmer")], "t.csv")
    assert str(caught.value) == "t.csv: no column 'custmer' (data.sequence_key). Did you mean 'customer'?"


def test_numbers_make_infinity_missing_and_refuse_text() -> None:
    frame = pl.DataFrame({"a": [1.0, float("inf"), float("nan"), None], "b": ["x", None, "y", "z"]})
    assert numbers(frame, "value_column", "a", "t").to_list() == [1.0, None, None, None]
    with pytest.raises(DataError, match=r"t: column 'b' \(data.value_column\) must be numbers, it holds 'x'"):
        numbers(frame, "value_column", "b", "t")


@pytest.mark.parametrize("text", [
    "2011-12-09 12:50", "2011-12-09 12:50:00", "2011-12-09T12:50:00Z", "2011-12-09T12:50:00.000",
    "2011/12/09 12:50", "12/9/2011 12:50", "09.12.2011 12:50",
])  # fmt: skip
def test_the_usual_forms_of_a_time(text: str) -> None:
    expected = datetime(2011, 12, 9, 12, 50, tzinfo=UTC).timestamp()
    assert times(pl.DataFrame({"t": [text]}), "t", "t.csv").to_list() == [expected]


def test_dates_and_numbers_are_times_too() -> None:
    day = datetime(2011, 12, 9, tzinfo=UTC).timestamp()
    assert times(pl.DataFrame({"t": ["2011-12-09"]}), "t", "t.csv").to_list() == [day]
    assert times(pl.DataFrame({"t": [3, 1]}), "t", "t.csv").to_list() == [3.0, 1.0]


@pytest.mark.parametrize(("values", "message"), [
    (["2011-12-09", "soon"], "must be numbers or times such as"),
    ([1.0, None], "has rows without a time"),
    ([True, False], "must be numbers or times such as"),
])  # fmt: skip
def test_what_is_no_time(values: list[object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        times(pl.DataFrame({"t": values}), "t", "t.csv")
