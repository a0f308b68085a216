"""Files through DuckDB, read back by Polars and PyArrow: what is written, what it costs, what is not."""

import json
import math
import resource
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipwise.cli import main
from clipwise.data import Bounds, Clipper, clip_file
from clipwise.data import files as module
from clipwise.errors import ArgumentError, DataError

NAN, INF = math.nan, math.inf


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    table = pa.table(
        {
            "double": pa.array([-5.0, 1.0, NAN, None, 7.0, INF]),
            "single": pa.array([-5.0, 1.0, NAN, None, 7.0, -INF], pa.float32()),
            "whole": pa.array([-5, 1, 2, None, 7, 2**60]),
            "small": pa.array([0, 1, 2, 3, 7, 255], pa.uint8()),
            "money": pa.array(
                [Decimal("-9.99"), Decimal("0.10"), None, Decimal("1.00"), Decimal("99.00"), Decimal(0)]
            ),
            'te"xt': list("abcdef"),
            "truth": [True, False, None, True, True, False],
            "numbers as text": list("123456"),
        }
    )
    pq.write_table(table, tmp_path / "in.parquet", compression="zstd")
    return tmp_path


def left(folder):
    """What lies there beside the input, hidden things too."""
    return sorted(path.name for path in folder.iterdir() if path.name != "in.parquet")


def skewed(path, rows=20_000):
    x = np.exp(np.random.default_rng(0).normal(size=(rows, 2)) * [1.0, 3.0])
    pl.DataFrame(x, schema=["a", "b"]).with_columns(n=pl.int_range(rows)).write_parquet(
        path, row_group_size=3000
    )
    return np.column_stack([x, np.arange(rows)])


def test_values_types_order_and_compression(folder):
    bounds = {
        "double": (-1.5, 4.5),
        "single": (0.1, None),
        "whole": (-2.5, 4.5),
        "small": (-3, 200.5),
        "money": (-0.125, 50.009),
    }
    done = clip_file("in.parquet", "out.parquet", bounds)
    before, after = pq.read_table("in.parquet"), pq.read_table("out.parquet")
    assert [(f.name, f.type) for f in after.schema] == [(f.name, f.type) for f in before.schema]
    assert [repr(v) for v in after["double"].to_pylist()] == ["-1.5", "1.0", "nan", "None", "4.5", "4.5"]
    single = float(np.float32(0.1))
    assert [repr(v) for v in after["single"].to_pylist()] == [
        repr(single),
        "1.0",
        "nan",
        "None",
        "7.0",
        repr(single),
    ]
    assert after["whole"].to_pylist() == [-2, 1, 2, None, 4, 4]
    assert after["small"].to_pylist() == [0, 1, 2, 3, 7, 200]
    money = [Decimal("-0.12"), Decimal("0.10"), None, Decimal("1.00"), Decimal("50.00"), Decimal("0.00")]
    assert after["money"].to_pylist() == money
    for name in ('te"xt', "truth", "numbers as text"):
        assert after[name].equals(before[name])
    assert pq.ParquetFile("out.parquet").metadata.row_group(0).column(0).compression == "ZSTD"
    assert (done.rows, done.bounds, done.rank_error, left(folder)) == (
        6,
        Bounds(bounds),
        0.0,
        ["out.parquet"],
    )
    one = done.report["double"]
    assert (one.count, one.missing, one.below, one.above, one.smallest, one.largest) == (
        4,
        2,
        1,
        2,
        -5.0,
        7.0,
    )
    assert (done.report["whole"].below, done.report["whole"].above) == (1, 2)


@pytest.mark.parametrize("method", ["quantiles", "iqr", "mad", "deviations"])
def test_bounds_are_those_of_the_transformer(tmp_path, method):
    x = skewed(tmp_path / "in.parquet")
    done = clip_file(tmp_path / "in.parquet", tmp_path / "out.parquet", method)
    clipper = Clipper(method).fit(x)
    assert list(done.bounds) == ["a", "b", "n"]
    np.testing.assert_allclose([low for low, _ in done.bounds.values()], clipper.lower_, rtol=1e-9)
    np.testing.assert_allclose([high for _, high in done.bounds.values()], clipper.upper_, rtol=1e-9)
    out = pl.read_parquet(tmp_path / "out.parquet")
    np.testing.assert_allclose(out.select("a", "b").to_numpy(), clipper.transform(x)[:, :2], rtol=1e-9)
    assert [(o.below, o.above) for o in done.report][:2] == [(o.below, o.above) for o in clipper.report_][:2]


def test_a_coarse_sketch_keeps_its_word(tmp_path):
    x = skewed(tmp_path / "in.parquet", rows=60_000)[:, 0]
    done = clip_file(
        tmp_path / "in.parquet", tmp_path / "out.parquet", low=0.1, high=0.9, columns=["a"], rank_error=0.01
    )
    assert 0 < done.rank_error <= 0.01
    for level, bound in zip((0.1, 0.9), done.bounds["a"], strict=True):
        assert abs((x <= bound).mean() - level) <= 0.01
    assert done.report["a"].above == (x > done.bounds["a"][1]).sum()


def test_one_side_a_strange_name_and_its_own_place(tmp_path):
    place = tmp_path / "it's [a] *?.parquet"
    x = skewed(place, rows=500)
    skewed(tmp_path / "it's a *?.parquet", rows=5)
    done = clip_file(place, place, side="high", columns=["b"], force=True)
    out = pl.read_parquet(place.read_bytes())
    assert done.bounds["b"] == (-INF, np.quantile(x[:, 1], 0.99))
    assert (out["b"].min(), out["b"].max()) == (x[:, 1].min(), done.bounds["b"][1])
    np.testing.assert_array_equal(out["a"], x[:, 0])


def test_a_folder_named_like_a_partition_adds_nothing(tmp_path):
    (tmp_path / "year=2024").mkdir()
    place = tmp_path / "year=2024" / "in.parquet"
    pl.DataFrame({"year": [1, 2, 3]}).write_parquet(place)
    clip_file(place, tmp_path / "out.parquet", {"year": (2, None)})
    assert pl.read_parquet(tmp_path / "out.parquet").to_dict(as_series=False) == {"year": [2, 2, 3]}


def test_decimals_lose_no_step(tmp_path):
    """2.3 is a little less than 2.30 in binary."""
    money = [Decimal("1.10"), Decimal("2.30"), Decimal("0.29"), Decimal("-2.30")]
    pq.write_table(pa.table({"m": pa.array(money, pa.decimal128(10, 2))}), tmp_path / "in.parquet")
    for arguments in ({"low": 0, "high": 1}, {"method": "given", "low": -2.3, "high": 2.3}):
        clip_file(tmp_path / "in.parquet", tmp_path / "out.parquet", **arguments, force=True)
        assert pq.read_table(tmp_path / "out.parquet")["m"].to_pylist() == money


def test_one_huge_value_ends_nothing(tmp_path):
    pl.DataFrame({"x": [1.0, 2.0, 3.0, 1.797e308]}).write_parquet(tmp_path / "in.parquet")
    done = clip_file(tmp_path / "in.parquet", tmp_path / "out.parquet", low=0, high=0.5)
    assert pl.read_parquet(tmp_path / "out.parquet")["x"].to_list() == [1.0, 2.0, 2.5, 2.5]
    assert done.report["x"].above == 2
    refused(
        tmp_path,
        ArgumentError,
        "column 'x': .* beyond the range",
        tmp_path / "in.parquet",
        tmp_path / "new.parquet",
        "deviations",
    )


def test_progress_is_told_stage_by_stage(tmp_path):
    skewed(tmp_path / "in.parquet")
    told = []
    clip_file(tmp_path / "in.parquet", tmp_path / "out.parquet", progress=lambda *what: told.append(what))
    assert list(dict.fromkeys(stage for stage, _ in told)) == ["learning", "counting", "writing"]
    for stage in ("learning", "counting", "writing"):
        shares = [share for name, share in told if name == stage]
        assert shares[-1] == 1.0
        assert all(0 <= share <= 1 for share in shares)


def test_memory_stays_bounded(tmp_path):
    """A file of 96 MB in a process of its own, with 64 MB for DuckDB."""
    rows = 3_000_000
    generator = np.random.default_rng(0)
    schema = pa.schema([(name, pa.float64()) for name in ("a", "b", "c", "n")])
    with pq.ParquetWriter(
        tmp_path / "in.parquet", schema, compression="none", use_dictionary=False
    ) as writer:
        for _ in range(20):
            columns = [
                generator.normal(size=rows // 20).astype(field.type.to_pandas_dtype()) for field in schema
            ]
            writer.write_table(pa.table(columns, schema=schema), row_group_size=100_000)
    code = (
        "import resource; from clipwise.data.files import clip_file; from clipwise.data import _parquet\n"
        "import duckdb, pyarrow, datasketches\n"
        "start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "done = clip_file('in.parquet', 'out.parquet', low=.01, high=.99, memory=64, columns=['a', 'n'])\n"
        "print(done.rows, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start) // 1024)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    written, grown = map(int, done.stdout.split())
    assert (tmp_path / "in.parquet").stat().st_size > 90e6
    assert written == rows
    assert grown < 160, f"{grown} MB more than before"
    assert pq.ParquetFile(tmp_path / "out.parquet").metadata.num_rows == rows


def refused(folder, error, says, *arguments, **options):
    """It fails with that sentence, and nothing is there that was not before."""
    before = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    with pytest.raises(error, match=says):
        clip_file(*arguments, **options)
    assert {path: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


def test_what_is_refused_before_anything_is_written(folder):
    go = ("in.parquet", "out.parquet")
    refused(
        folder,
        ArgumentError,
        "column 'numbers as text' must be numbers, it holds numbers written",
        *go,
        columns=["numbers as text"],
    )
    refused(
        folder, ArgumentError, "must be numbers, it holds text such as 'a'", *go, columns=["double", 'te"xt']
    )
    refused(
        folder, ArgumentError, "column 'truth' must be numbers, it is of type bool", *go, columns=["truth"]
    )
    refused(folder, ArgumentError, r"no column 'doubel'. Did you mean 'double'", *go, columns=["doubel"])
    refused(folder, ArgumentError, "columns must be a list", *go, columns="double")
    refused(folder, ArgumentError, "columns must name at least one column", *go, columns=[])
    refused(folder, ArgumentError, "crossed, low=0.9", *go, low=0.9, high=0.1)
    refused(folder, ArgumentError, "'double': the bounds are crossed", *go, {"double": (2, 1)})
    refused(folder, ArgumentError, "none of them lies between", *go, {"whole": (1.2, 1.8)})
    refused(folder, ArgumentError, "none of them lies between", *go, {"money": (0.001, 0.002)})
    refused(folder, ArgumentError, "part of the bounds", *go, {"double": (1, 2)}, side="low")
    refused(folder, ArgumentError, "memory must be 64", *go, memory=3)
    refused(folder, ArgumentError, "rank_error must be", *go, rank_error=0)
    refused(folder, ArgumentError, "there is no folder nowhere", "in.parquet", "nowhere/out.parquet")
    refused(folder, DataError, "none.parquet: no such file", "none.parquet", "out.parquet")
    refused(folder, DataError, "a folder, expected a Parquet file", ".", "out.parquet")
    (folder / "sub").mkdir()
    refused(folder, ArgumentError, "sub is a folder", "in.parquet", "sub", force=True)
    (folder / "old.parquet").write_text("old")
    refused(
        folder,
        ArgumentError,
        r"old.parquet exists; force \(--force\) replaces it",
        "in.parquet",
        "old.parquet",
    )
    clip_file("in.parquet", "old.parquet", columns=["double"], force=True)
    assert pl.read_parquet("old.parquet").height == 6


def test_an_empty_column_and_an_empty_file_are_named(folder):
    pl.DataFrame({"a": [1.0], "none": pl.Series([None], dtype=pl.Float64)}).write_parquet("empty.parquet")
    refused(folder, ArgumentError, "column 'none' is empty", "empty.parquet", "out.parquet")
    pl.DataFrame({"a": [1.0]}).clear().write_parquet("rows.parquet")
    refused(folder, ArgumentError, "column 'a' is empty", "rows.parquet", "out.parquet")
    assert clip_file("rows.parquet", "out.parquet", "given", low=0).rows == 0
    pl.DataFrame({"a": ["x"]}).write_parquet("text.parquet")
    refused(folder, ArgumentError, "no numeric column among 'a'", "text.parquet", "other.parquet")


@pytest.mark.parametrize("bounds", ["quantiles", {"b": (0, 1)}], ids=["learnt", "given"])
def test_a_damaged_file_leaves_no_output(tmp_path, bounds):
    skewed(tmp_path / "whole.parquet")
    content = (tmp_path / "whole.parquet").read_bytes()
    (tmp_path / "out.parquet").write_text("precious")
    (tmp_path / "in.parquet").write_bytes(content[: len(content) // 2])
    refused(
        tmp_path,
        DataError,
        "in.parquet: DuckDB could not finish",
        tmp_path / "in.parquet",
        tmp_path / "out.parquet",
        bounds,
        force=True,
    )
    # The end is in order, and a page in the middle is not.
    middle = len(content) // 2
    (tmp_path / "in.parquet").write_bytes(content[:middle] + bytes(4000) + content[middle + 4000 :])
    refused(
        tmp_path,
        DataError,
        "may be damaged",
        tmp_path / "in.parquet",
        tmp_path / "out.parquet",
        bounds,
        force=True,
    )
    (tmp_path / "in.parquet").write_bytes(b"")
    refused(
        tmp_path,
        DataError,
        "in.parquet: DuckDB could not finish",
        tmp_path / "in.parquet",
        tmp_path / "out.parquet",
        bounds,
        force=True,
    )


@pytest.mark.parametrize("stage", ["learning", "counting", "writing"])
def test_ctrl_c_leaves_nothing_behind(tmp_path, stage):
    skewed(tmp_path / "in.parquet", rows=200_000)
    (tmp_path / "out.parquet").write_text("precious")

    def stop(now, share):
        if now == stage:
            raise KeyboardInterrupt

    places = tmp_path / "in.parquet", tmp_path / "out.parquet"
    refused(tmp_path, KeyboardInterrupt, None, *places, force=True, progress=stop)


def test_an_output_made_meanwhile_is_kept(folder):
    def make(stage, share):
        if stage == "writing":
            Path("out.parquet").write_text("theirs")

    with pytest.raises(ArgumentError, match="was created by another process meanwhile"):
        clip_file("in.parquet", "out.parquet", {"double": (0, 1)}, progress=make)
    assert Path("out.parquet").read_text() == "theirs"
    assert left(folder) == ["out.parquet"]


def test_a_place_that_cannot_be_written(folder, monkeypatch):
    def full(part, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.os, "replace", full)
    refused(
        folder,
        DataError,
        "out.parquet cannot be written .No space left",
        "in.parquet",
        "out.parquet",
        {"double": (0, 1)},
    )


@pytest.fixture
def little_room():
    """No file may grow beyond 10 kB."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_is_full_is_not_a_damaged_file(tmp_path, request):
    skewed(tmp_path / "in.parquet")
    request.getfixturevalue("little_room")
    says = "out.parquet cannot be written .*File too large"
    refused(tmp_path, DataError, says, tmp_path / "in.parquet", tmp_path / "out.parquet", {"a": (0, 1)})


def test_names_as_long_as_they_may_be(folder):
    clip_file("in.parquet", "x" * 247 + ".parquet", {"double": (0, 1)})
    refused(folder, DataError, "cannot be written .File name too long", "in.parquet", "x" * 256, {})
    refused(folder, DataError, "no such file", "x" * 256, "out.parquet", {})


@pytest.mark.parametrize("stage", ["learning", "writing"])
def test_an_error_of_the_callback_is_its_own(folder, stage):
    def broken(now, share):
        if now == stage:
            raise BrokenPipeError("nobody listens")

    go = ("in.parquet", "out.parquet")
    refused(folder, BrokenPipeError, "nobody listens", *go, columns=["double"], progress=broken)


def test_a_replaced_file_keeps_its_mode_and_its_link(folder):
    (folder / "far").mkdir()
    real = folder / "far" / "real.parquet"
    real.write_text("old")
    real.chmod(0o640)
    Path("out.parquet").symlink_to(real)
    assert clip_file("in.parquet", "out.parquet", {"double": (0, 1)}, force=True).path == Path("out.parquet")
    assert Path("out.parquet").is_symlink()
    assert real.stat().st_mode & 0o777 == 0o640
    assert pl.read_parquet(real)["double"].to_list()[:2] == [0.0, 1.0]
    assert [path.name for path in real.parent.iterdir()] == ["real.parquet"]


def test_the_command_takes_names_with_commas(folder, capsys):
    pl.DataFrame({"a,b": [1.0, 9.0], "a": [1.0, 9.0], " c": [1.0, 9.0]}).write_parquet("in.parquet")
    words = ["data", "clip", "in.parquet", "out.parquet", "--given", "0", "5", "--force"]
    for columns, clipped in (
        (["a,b"], ["a,b"]),
        (["a, c"], ["a", " c"]),
        ([" a "], ["a"]),
        (["a,b", "a"], ["a,b", "a"]),
    ):
        assert main([*words, *(word for name in columns for word in ("--columns", name))]) == 0
        after = pl.read_parquet("out.parquet")
        assert [name for name in after.columns if after[name].max() == 5] == clipped
    assert main([*words, "--columns", ","]) == 2
    assert "columns must name at least one column" in capsys.readouterr().err


def test_the_bounds_are_put_into_place_whole(folder, monkeypatch, capsys):
    words = ["data", "clip", "in.parquet", "out.parquet", "--given", "0", "5", "--columns", "double"]
    precious = Path("in.parquet").read_bytes()
    Path("link.json").symlink_to("in.parquet")
    for place, says in (
        ("in.parquet", "--save-bounds names the file that is read, in.parquet"),
        ("link.json", "--save-bounds names the file that is read, link.json"),
        (".", "'.' is a folder"),
    ):
        assert main([*words, "--force", "--save-bounds", place]) == 2
        assert says in capsys.readouterr().err
        assert (Path("in.parquet").read_bytes(), left(folder)) == (precious, ["link.json"])
    Path("old.json").write_text("old")

    def full(part, target):
        if target.suffix == ".json":
            raise OSError(28, "No space left on device")
        part.rename(target)

    monkeypatch.setattr(module.os, "replace", full)
    assert main([*words, "--force", "--save-bounds", "old.json"]) == 2
    assert "cannot write 'old.json': No space left on device" in capsys.readouterr().err
    assert Path("old.json").read_text() == "old"
    assert left(folder) == ["link.json", "old.json", "out.parquet"]


def test_the_command(folder, capsys):
    words = [
        "data",
        "clip",
        "in.parquet",
        "out.parquet",
        "--quantiles",
        "0",
        "0.5",
        "--columns",
        "double, whole",
    ]
    assert main([*words, "--save-bounds", "bounds.json"]) == 0
    said = capsys.readouterr()
    assert "double: [-5, 1] of [-5, 7] clips 0 below (0.00%) and 2 above" in said.out
    assert "6 rows in out.parquet" in said.out
    assert json.loads(Path("bounds.json").read_text()) == {
        "bounds": {"double": [-5.0, 1.0], "whole": [-5.0, 2.0]}
    }
    assert main(["data", "clip", "in.parquet", "again.parquet", "--bounds", "bounds.json"]) == 0
    assert pl.read_parquet("again.parquet").equals(pl.read_parquet("out.parquet"))
    assert (
        main(["data", "clip", "in.parquet", "given.parquet", "--given", "-1", "inf", "--columns", "double"])
        == 0
    )
    assert pl.read_parquet("given.parquet")["double"][0] == -1
    assert (
        main(
            [
                "data",
                "clip",
                "in.parquet",
                "iqr.parquet",
                "--iqr",
                "1.5",
                "--columns",
                "small",
                "--side",
                "high",
            ]
        )
        == 0
    )


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "give exactly one of --quantiles, --iqr, --mad, --deviations, --given and --bounds, got none"),
        (["--iqr", "1", "--mad", "2"], "got --iqr and --mad"),
        (["--quantiles", "0.9", "0.1"], "crossed"),
        (["--given", "2", "1"], "column 'double': the bounds are crossed, low=2.0 is above high=1.0"),
        (["--iqr", "-1"], "factor must be a number above 0, got -1.0"),
        (["--iqr", "1", "--columns", "truth"], "column 'truth' must be numbers"),
        (["--bounds", "none.json"], "none.json cannot be read"),
        (["--bounds", "in.parquet"], "cannot be read"),
        (["--iqr", "1", "--save-bounds", "in.parquet"], "names the file that is read"),
        (["--iqr", "1", "--save-bounds", "out.parquet"], "names the new file itself"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_sentence(folder, capsys, words, says):
    assert main(["data", "clip", "in.parquet", "out.parquet", *words]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("Error: ")
    assert said.err.count("\n") == 1
    assert says in said.err
    assert left(folder) == []
