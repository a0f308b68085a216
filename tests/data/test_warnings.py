"""Each way in warns where bounds leave a column one value of several, and is silent elsewhere."""

import json
import re
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from clipwise.cli import main
from clipwise.data import Bounds, Clipper, clip, clip_file, learn
from tests.data.test_frames import ENGINES

SPARSE = pl.DataFrame({"x": [0.0] * 90 + [float(i) for i in range(1, 11)]})
"""What counts of rare events look like: both quartiles and the median are 0."""

LEARNT = r"column 'x': method '{}' sets all values to 0\.0, as most of them are the same; give bounds"


def clip_parquet(method, **options):
    SPARSE.write_parquet("in.parquet")
    clip_file("in.parquet", "out.parquet", method, **options)


def clip_csv(method, **options):
    SPARSE.write_csv("in.csv")
    clip_file("in.csv", "out.csv", method, **options)


WAYS = {
    "fit": lambda method, **options: Clipper(method, **options).fit(SPARSE),
    "partial_fit": lambda method, **options: Clipper(method, **options).partial_fit(SPARSE),
    "fit_transform": lambda method, **options: Clipper(method, **options).fit_transform(SPARSE),
    "parquet": clip_parquet,
    "csv": clip_csv,
} | {name: partial(learn, make(SPARSE)) for name, make in ENGINES.items()}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("method", ["quantiles", "iqr", "mad"])
def test_learning_warns_of_a_column_that_is_wiped_out(way, method):
    options = {"low": 0.0, "high": 0.85} if method == "quantiles" else {}
    with pytest.warns(UserWarning, match=LEARNT.format(method)):
        WAYS[way](method, **options)


@pytest.mark.parametrize("way", WAYS)
def test_one_side_alone_can_wipe_out_a_column_too(way):
    """No bound below, and nothing lies below 0."""
    with pytest.warns(UserWarning, match=LEARNT.format("iqr")):
        WAYS[way]("iqr", side="high")


@pytest.mark.parametrize("way", WAYS)
def test_bounds_that_leave_two_values_are_no_reason(way):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        WAYS[way]("iqr", side="low")
        again = {"force": True} if way in ("parquet", "csv") else {}
        WAYS[way]("deviations", **again)
        WAYS[way]("given", low=0.0, high=0.0, **again)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_constant_column_is_no_reason(engine):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        bounds = learn(ENGINES[engine](pl.DataFrame({"x": [3.0] * 9})), "iqr")
    assert bounds == {"x": (3.0, 3.0)}


def test_batches_warn_once_a_column():
    with pytest.warns(UserWarning, match="'iqr'") as caught:
        clipper = Clipper("iqr").partial_fit(SPARSE).partial_fit(SPARSE)
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        clipper.partial_fit(pl.DataFrame({"x": np.arange(1000.0)}))
    with pytest.warns(UserWarning, match="'x'"):
        clipper.partial_fit(pl.DataFrame({"x": np.zeros(100_000)}))


@pytest.mark.parametrize("engine", ENGINES)
def test_clipping_a_frame_with_bounds_from_elsewhere_warns(engine):
    frame = ENGINES[engine](SPARSE)
    says = r"column 'x': its bounds, 0\.0 and 0\.0, set all values to 0\.0"
    with pytest.warns(UserWarning, match=says) as caught:
        clip(frame, Bounds.from_json('{"bounds": {"x": [0, 0]}}'))
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        clip(frame, {"x": (0, 0)})  # as it is asked for
        clip(frame, Bounds({"x": (0, 1)}))
    with pytest.warns(UserWarning, match="'mad'"):
        clipper = Clipper("mad").fit(SPARSE)
    with pytest.warns(UserWarning, match=says):
        clip(frame, clipper)


def test_an_eager_frame_that_is_constant_already_is_no_reason():
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        for make in (ENGINES["pandas"], ENGINES["polars"], ENGINES["pyarrow"]):
            clip(make(pl.DataFrame({"x": [0.0, 0.0]})), Bounds({"x": (0, 0)}))


def test_bounds_from_elsewhere_warn_in_files():
    SPARSE.write_parquet("in.parquet")
    with pytest.warns(UserWarning, match="its bounds, 0.0 and 0.0, set all values to 0.0"):
        clip_file("in.parquet", "out.parquet", Bounds({"x": (0, 0)}))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        clip_file("in.parquet", "out.parquet", {"x": (0, 0)}, force=True)


def test_a_warning_that_is_an_error_leaves_no_file(folder):
    SPARSE.write_parquet("in.parquet")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        with pytest.raises(UserWarning, match="'x'"):
            clip_file("in.parquet", "out.parquet", "iqr")
    assert [path.name for path in folder.iterdir()] == ["in.parquet"]


def test_the_command_line_warns_in_one_sentence(capsys):
    SPARSE.write_parquet("in.parquet")
    go = ["data", "clip", "in.parquet", "out.parquet", "--force"]
    assert main([*go, "--iqr", "1.5", "--save-bounds", "bounds.json"]) == 0
    said = capsys.readouterr()
    assert re.fullmatch("Warning: " + LEARNT.format("iqr") + r".*\n", said.err)
    assert json.loads(Path("bounds.json").read_text()) == {"bounds": {"x": [0.0, 0.0]}}
    assert main([*go, "--bounds", "bounds.json"]) == 0
    assert capsys.readouterr().err.startswith(
        "Warning: column 'x': its bounds, 0.0 and 0.0, set all values to 0.0"
    )
    assert main([*go, "--given", "0", "0"]) == 0
    assert capsys.readouterr().err == ""
