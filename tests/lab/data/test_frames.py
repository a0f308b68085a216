"""Tables: read as they are, refused in one sentence."""

import gzip
import lzma
from pathlib import Path

import polars as pl
import pytest

from clipwise.errors import DataError
from clipwise.lab.data.frames import numbers, read_csv, require_columns


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
    with pytest.raises(DataError) as caught:
        numbers(frame, "value_column", "b", "t")
    assert str(caught.value) == (
        "t: column 'b' (data.value_column) must be numbers, it holds 'x' in row 1 below the header"
    )


def test_the_value_that_is_no_number_is_named_and_not_the_first_one(tmp_path: Path) -> None:
    rows = ["0.236"] * 298 + ["broken", "1e3", "worse"]
    frame = read_csv(write(tmp_path, "v\n" + "\n".join(rows) + "\n"))
    with pytest.raises(DataError, match="must be numbers, it holds 'broken' in row 299 below the header"):
        numbers(frame, "value_column", "v", "t.csv")


def test_a_column_without_a_value_is_none_of_numbers() -> None:
    with pytest.raises(DataError, match="must be numbers, it holds nothing"):
        numbers(pl.DataFrame({"v": pl.Series([None, None], dtype=pl.String)}), "value_column", "v", "t.csv")


@pytest.mark.parametrize("text", ["n/a", "N/A", "N/a", "n/A"])
def test_not_available_is_missing_in_any_case(tmp_path: Path, text: str) -> None:
    frame = read_csv(write(tmp_path, f"v\n1.5\n{text}\n"))
    assert numbers(frame, "value_column", "v", "t.csv").to_list() == [1.5, None]


def test_a_packed_table_and_a_broken_one(tmp_path: Path) -> None:
    path = tmp_path / "t.csv.gz"
    packed = gzip.compress(b"a,b\n1,x\n")
    path.write_bytes(packed)
    assert read_csv(path).rows() == [(1, "x")]
    flipped = bytearray(packed)
    flipped[-6] ^= 1  # in the checksum
    for content in (b"a,b\n1,x\n", packed[:-9], bytes(flipped), packed[:12] + b"\xff" * 9):
        path.write_bytes(content)
        with pytest.raises(DataError, match="not a gzip file, or a damaged one") as caught:
            read_csv(path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("suffix", "pack"), [(".gz", gzip.compress), (".xz", lzma.compress)])
def test_a_packed_file_is_unpacked_up_to_a_bound(tmp_path, monkeypatch, suffix, pack):
    path = tmp_path / f"t.csv{suffix}"
    content = b"a\n" + b"1\n" * 499
    path.write_bytes(pack(content))
    monkeypatch.setattr("clipwise.lab.data.files.MOST", len(content))
    assert len(read_csv(path)) == 499
    monkeypatch.setattr("clipwise.lab.data.files.MOST", len(content) - 1)
    with pytest.raises(DataError, match="unpacks to more than"):
        read_csv(path)
