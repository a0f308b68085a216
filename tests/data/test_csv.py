"""CSV in and out: the ending decides, and what is not clipped stays character for character."""

import csv
import gzip
import io
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipwise.cli import main
from clipwise.data import Bounds, Clipper, clip_file
from clipwise.errors import ArgumentError, DataError
from tests.data.test_files import refused, skewed
from tests.depth import thorough


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(text, place="in.csv"):
    Path(place).write_bytes(text if isinstance(text, bytes) else text.encode())


def rows_of(place="out.csv", delimiter=","):
    return list(csv.reader(io.StringIO(Path(place).read_text(), newline=""), delimiter=delimiter))


def test_what_is_not_clipped_stays_character_for_character():
    text = (
        ',amount,"a, b",code,when,truth\n'
        '0,1.50,"x, ""y""",007,01/02/2024,yes\n'
        '1,NA,"two\nlines",008,2/1/2024,no\n'
        "2,1e3,,009,,\n"
        '3,-0.0,"",010,x,true\n'
        "4,+7,ä,1_000,x,NA\n"
        "5,1e-400,0x1,,x,1\n"
        "6,nan,NULL,,x,1\n"
    )
    write(text)
    done = clip_file("in.csv", "out.csv", {"amount": (0, 50.25)})
    assert Path("out.csv").read_text() == text.replace("1e3", "50.25")
    one = done.report["amount"]
    assert (done.rows, one.count, one.missing, one.below, one.above) == (7, 5, 2, 0, 1)
    assert (one.smallest, one.largest) == (0.0, 1000.0)


@pytest.mark.parametrize("method", ["quantiles", "iqr", "mad", "deviations"])
def test_bounds_and_values_are_those_of_the_transformer(tmp_path, method):
    x = skewed(tmp_path / "in.parquet")
    pl.read_parquet("in.parquet").with_columns(text=pl.lit("t")).write_csv("in.csv")
    told = []
    done = clip_file("in.csv", "out.csv", method, progress=lambda *what: told.append(what))
    clipper = Clipper(method).fit(x)
    assert list(done.bounds) == ["a", "b", "n"]
    np.testing.assert_allclose([low for low, _ in done.bounds.values()], clipper.lower_, rtol=1e-9)
    np.testing.assert_allclose([high for _, high in done.bounds.values()], clipper.upper_, rtol=1e-9)
    out = pl.read_csv("out.csv").select("a", "b").to_numpy()
    np.testing.assert_allclose(out, clipper.transform(x)[:, :2], rtol=1e-9)
    assert [(o.below, o.above) for o in done.report][:2] == [(o.below, o.above) for o in clipper.report_][:2]
    for stage in ("learning", "counting", "writing"):
        shares = [share for name, share in told if name == stage]
        assert shares[-1] == 1.0
        assert all(0 <= share <= 1 for share in shares)


def test_whole_numbers_lose_no_digit():
    large = [2**60 + 1, 2**60 + 4, 2**60 + 9]
    huge = [10**30 + 1, 10**30 + 4, 10**30 + 9]
    write("large,huge\n" + "".join(f"{a},{b}\n" for a, b in zip(large, huge, strict=True)))
    bounds = {"large": (2**60 + 3, 2**60 + 6), "huge": (10**30 + 3, 10**30 + 6)}
    clip_file("in.csv", "out.csv", bounds)
    inside = [[2**60 + k, 10**30 + k] for k in (3, 4, 6)]
    assert [[int(text) for text in row] for row in rows_of()[1:]] == inside
    clip_file("in.csv", "out.parquet", bounds)
    table = pq.read_table("out.parquet")
    assert table.schema.types == [pa.int64(), pa.decimal128(38, 0)]
    assert [[int(value) for value in row.values()] for row in table.to_pylist()] == inside


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".csv.gz", ".tsv.zst", ".parquet", ".CSV"])
@pytest.mark.parametrize("begin", [".csv", ".tsv", ".csv.gz", ".parquet"])
def test_the_ending_decides(begin, ending):
    frame = pl.DataFrame(
        {"x": [-5.0, 1.5, None, 7.0], "n": [1, 2, 3, 400], "text": ["a,\tb", "", None, 'q"']}
    )
    within = frame.with_columns(pl.col("x").clip(-1, 5), pl.col("n").clip(None, 4))
    if begin == ".parquet":
        frame.write_parquet("in.parquet")
    else:
        text = frame.write_csv(separator="\t" if "tsv" in begin else ",").encode()
        write(gzip.compress(text) if begin.endswith("gz") else text, f"in{begin}")
    clip_file(f"in{begin}", f"out{ending}", {"x": (-1, 5), "n": (None, 4)})
    if ending == ".parquet":
        assert pl.read_parquet("out.parquet").equals(within)
    else:
        separator = "\t" if "tsv" in ending else ","
        out = pl.read_csv(f"out{ending}", separator=separator)
        assert out.equals(within)
        content = Path(f"out{ending}").read_bytes()
        magic = {"gz": b"\x1f\x8b", "zst": b"\x28\xb5\x2f\xfd"}.get(ending.rpartition(".")[2], b"x")
        assert content.startswith(magic)


def test_no_bounds_change_nothing():
    write("x,y\n1.50,a\n")
    assert clip_file("in.csv", "out.csv", {}).rows == 1
    assert Path("out.csv").read_text() == "x,y\n1.50,a\n"


def test_an_ending_of_something_else_is_refused(tmp_path):
    write("x\n1\n9\n")
    says = r"out.json: the extension sets the format; it must be .parquet, .csv or .tsv, got '.json'"
    refused(tmp_path, ArgumentError, says, "in.csv", "out.json", {"x": (0, 5)})
    pl.DataFrame({"x": [1.0, 9.0]}).write_parquet("table.part")
    clip_file("table.part", "out", {"x": (0, 5)})
    clip_file("table.part", "out.part", {"x": (0, 5)})
    for place in ("out", "out.part"):
        assert pl.read_parquet(Path(place).read_bytes())["x"].to_list() == [1.0, 5.0]


@pytest.mark.parametrize("delimiter", [";", "|", "\t"])
def test_delimiter_and_quotes_stay(delimiter):
    text = "x,y\n1,'a\\'b'\n9,'c,d'\n".replace(",", delimiter)
    write(text)
    clip_file("in.csv", "out.csv", {"x": (0, 5)})
    found = [row.split(delimiter)[0] for row in Path("out.csv").read_text().splitlines()]
    assert found == ["x", "1", "5"]
    assert f"{delimiter}'c" in Path("out.csv").read_text() or f"{delimiter}c" in Path("out.csv").read_text()


def test_frames_of_pandas_come_back_with_their_index():
    frame = pd.DataFrame({"x": [1.5, 9.0], "n": [1, 2]}, index=["a", "b"])
    frame.to_csv("in.csv")
    clip_file("in.csv", "out.csv", {"x": (0, 5)})
    pd.testing.assert_frame_equal(pd.read_csv("out.csv", index_col=0), frame.clip(upper=5))


def test_numbers_that_begin_late_or_end_early_are_text(tmp_path):
    """The whole file is looked at, not its beginning."""
    write("x,y\n" + "1,2\n" * 50_000 + "none,3\n")
    assert list(clip_file("in.csv", "out.csv", low=0.0, high=1.0).bounds) == ["y"]
    says = "column 'x' must be numbers, it holds text such as 'none'"
    refused(tmp_path, ArgumentError, says, "in.csv", "new.csv", {"x": (0, 1)})


@pytest.mark.parametrize(
    ("content", "error", "says"),
    [
        ("", DataError, "in.csv cannot be read as CSV: it is empty"),
        ("x,y\n", ArgumentError, "no numeric column among 'x', 'y'"),
        ("# note\nx,y\n1,2\n", DataError, "lines that begin with '#' would be lost"),
        ("title\n\nx,y\n1,2\n", DataError, "one column, 'title', and it is text; the first line has to name"),
        ("x,y\n1,2\n3\n", DataError, "one column, 'x,y', and it is text; .* a field for each"),
        ("x,y\n1,2\n3,4,5\n", DataError, "one column, 'x,y', and it is text; .* a field for each"),
        ("x,X\n1,2\n", DataError, "columns 'x' and 'X' differ only in case"),
        ("x,x\n1,2\n", DataError, "columns 'x' and 'x' differ only in case"),
        (b"x,y\n1,\xe4\n", DataError, "This file is not utf-8 encoded"),
        (b"PAR1", DataError, "it holds Parquet: name it .parquet"),
        ("x;y\n1,5;a\n2,5;b\n", ArgumentError, "no numeric column among 'x', 'y'"),
    ],
    ids=str,
)
def test_what_is_no_table_is_refused(tmp_path, content, error, says):
    write(content)
    refused(tmp_path, error, says, "in.csv", "out.csv")


def test_columns_that_are_no_numbers_are_named(tmp_path):
    write("x,gone,text,code\n1,NA,1;5,007\n2,,b,008\n")
    for column, says in (
        ("gone", "column 'gone' is empty"),
        ("text", "column 'text' must be numbers, it holds text such as '1;5'"),
        ("y", "in.csv: no column 'y'"),
    ):
        refused(tmp_path, ArgumentError, says, "in.csv", "out.csv", columns=[column])
    # What is written like a code is one until it is asked for.
    assert list(clip_file("in.csv", "out.csv", low=0.0, high=1.0).bounds) == ["x"]
    clip_file("in.csv", "out.csv", {"code": (None, 7.5)}, force=True)
    assert [row[3] for row in rows_of()] == ["code", "007", "7.5"]


def test_csv_that_is_called_parquet_is_told_apart(tmp_path):
    write("x\n1\n", "in.parquet")
    says = r"in.parquet: no Parquet file; CSV is read where the name ends in .csv or .tsv"
    refused(tmp_path, DataError, says, "in.parquet", "out.parquet")


def test_parquet_becomes_text_without_losing_a_digit():
    table = pa.table(
        {
            "double": [0.1, 1e300, float("nan")],
            "money": pa.array([Decimal("0.10"), Decimal("99.99"), None], pa.decimal128(10, 2)),
            "whole": [2**60 + 1, 2**60 + 2, None],
        }
    )
    pq.write_table(table, "in.parquet")
    clip_file("in.parquet", "out.csv", {"money": (None, 50)})
    (names, *rows) = rows_of()
    assert names == table.column_names
    assert [[float(row[0]), row[1]] for row in rows[:2]] == [[0.1, "0.10"], [1e300, "50.00"]]
    assert [row[2] for row in rows] == [str(2**60 + 1), str(2**60 + 2), ""]
    assert (rows[2][0], rows[2][1]) == ("nan", "")


@pytest.mark.parametrize("stage", ["learning", "counting", "writing"])
def test_ctrl_c_leaves_nothing_behind(tmp_path, stage):
    write("x\n" + "1\n2\n" * 100_000)
    write("precious", "out.csv")

    def stop(now, share):
        if now == stage:
            raise KeyboardInterrupt

    refused(tmp_path, KeyboardInterrupt, None, "in.csv", "out.csv", force=True, progress=stop)


@thorough
def test_memory_stays_bounded(tmp_path):
    """A file of 70 MB in a process of its own, with 64 MB for DuckDB."""
    rows = 900_000
    generator = np.random.default_rng(0)
    part = pl.DataFrame(generator.normal(size=(rows // 10, 4)), schema=list("abcd"))
    with open("in.csv", "wb") as file:
        for i in range(10):
            part.write_csv(file, include_header=not i)
    code = (
        "import resource; from clipwise.data.files import clip_file\n"
        "import duckdb, pyarrow, datasketches, narwhals.stable.v2\n"
        "start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "done = clip_file('in.csv', 'out.csv', low=.01, high=.99, memory=64, columns=['a', 'd'])\n"
        "print(done.rows, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start) // 1024)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    written, grown = map(int, done.stdout.split())
    assert Path("in.csv").stat().st_size > 70e6
    assert written == rows
    assert grown < 160, f"{grown} MB more than before"
    with open("in.csv") as before, open("out.csv") as after:
        same = sum(a.split(",")[1:3] == b.split(",")[1:3] for a, b in zip(before, after, strict=True))
    assert same == rows + 1


def test_the_command(capsys):
    write("x,y\n1,a\n9,b\n")
    go = ["data", "clip", "in.csv", "out.csv", "--given", "0", "5"]
    assert main([*go, "--columns", "x", "--save-bounds", "bounds.json"]) == 0
    assert Path("out.csv").read_text() == "x,y\n1,a\n5,b\n"
    assert Bounds.from_json(Path("bounds.json").read_text()) == {"x": (0, 5)}
    assert "2 rows in out.csv" in capsys.readouterr().out
