"""Every public object through pickle, cloudpickle, copy, deepcopy and a process of its own."""

import copy
import multiprocessing
import pickle

import cloudpickle
import numpy as np
import pandas as pd
import pytest

import clipwise.data
from clipwise.data import Bounds, Clipper, clip, clip_file, learn, report
from clipwise.errors import ArgumentError, DataError

FRAME = pd.DataFrame({"x": [1.0, 2.0, 3.0, 4.0, 100.0], "y": [0.0, 1.0, 2.0, 3.0, np.nan]})


def there_and_back(values):
    """Into a process that was started anew, and out of it again."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(copy.copy, (values,))


WAYS = {
    "pickle": lambda values: pickle.loads(pickle.dumps(values)),
    "cloudpickle": lambda values: cloudpickle.loads(cloudpickle.dumps(values)),
    "copy": lambda values: [copy.copy(value) for value in values],
    "deepcopy": copy.deepcopy,
    "spawn": there_and_back,
}


@pytest.fixture(params=WAYS)
def copied(request):
    return WAYS[request.param]


def test_bounds_and_reports(copied, tmp_path):
    FRAME.to_parquet(tmp_path / "in.parquet")
    bounds = Bounds({"x": (2**60 + 1, None), ("a", 1): (0, 1)})
    whole = report(FRAME, {"x": (0, 5)})
    done = clip_file(tmp_path / "in.parquet", tmp_path / "out.parquet", {"x": (0, 5)})
    values = copied([bounds, whole, whole["x"], done])
    assert [type(value) for value in values] == [Bounds, type(whole), type(whole["x"]), type(done)]
    assert values == [bounds, whole, whole["x"], done]
    assert values[0]["x"] == (2**60 + 1, float("inf"))


def test_transformers(copied):
    new, fitted = Clipper("mad", columns=["x"]), Clipper("iqr").fit(FRAME)
    batches = Clipper("iqr", rank_error=0.1).partial_fit(FRAME).partial_fit(FRAME)
    one, two, three = copied([new, fitted, batches])
    pd.testing.assert_frame_equal(
        one.set_output(transform="pandas").fit_transform(FRAME),
        new.set_output(transform="pandas").fit_transform(FRAME),
    )
    np.testing.assert_array_equal(two.transform(FRAME), fitted.transform(FRAME))
    assert (two.report_, two.bounds_) == (fitted.report_, fitted.bounds_)
    more = FRAME * 2
    # The copy goes on by itself: the first one has seen nothing of it.
    assert three.partial_fit(more).report_["x"].count == 15
    assert batches.report_["x"].count == 10


def test_functions_and_errors(copied):
    functions = [clip, learn, report, clip_file]
    assert copied(functions) == functions
    errors = [ArgumentError("no column 'x'"), DataError("in.csv: no such file")]
    assert list(map(repr, copied(errors))) == list(map(repr, errors))


def test_nothing_public_is_left_out():
    assert set(clipwise.data.__all__) == {
        *("Bounds", "Clipper", "ClippingReport", "ColumnReport"),
        *("clip", "clip_file", "learn", "report"),
    }
