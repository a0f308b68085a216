"""Columns that grow, distributions, heat maps, and sorted names, each against numpy in the plain way."""

import base64
import sqlite3

import numpy as np
import pytest

from clipwise.dashboard.columns import Columns, LayerTable
from clipwise.dashboard.distribution import distribution
from clipwise.dashboard.heatmap import ABSENT, BAD, ZERO, grid, heat_view
from clipwise.dashboard.recording import Recording
from clipwise.dashboard.sources import logged_of
from clipwise.dashboard.views import alert_views
from clipwise.monitor.store import Alert, Layers, Rows, Store, Writer

from .databases import steps


def test_columns_read_only_what_is_new(tmp_path, monkeypatch):
    path = tmp_path / "a.db"
    writer = Writer(path, "u", "run")
    columns, asked = Columns(), []
    original = Store.series
    monkeypatch.setattr(
        Store, "series", lambda self, run, names, source="", *, rank=None, after=0:
        asked.append((tuple(names), after)) or original(self, run, names, source, rank=rank, after=after)
    )  # fmt: skip
    with Store(path) as store:
        for part in range(30):
            here = np.arange(part * 40, part * 40 + 40)
            writer.write([steps(("loss", "norm"), here, here * 2.0, here * 3.0)])
            found = columns.read(store, writer.run, ["loss"])
            assert found["loss"].steps.tolist() == list(range(part * 40 + 40))
            assert found["loss"].values.tolist() == [2.0 * i for i in range(part * 40 + 40)]
        assert [after for _, after in asked] == list(range(30))
        both = columns.read(store, writer.run, ["loss", "norm", "none"])
        assert both["norm"].values.tolist() == [3.0 * i for i in range(1200)]
        assert len(both["none"].steps) == 0
        assert asked[-2:] == [(("loss",), 30), (("norm",), 0)]
    writer.finish()


def test_columns_sort_in_what_comes_late_and_leave_alone_what_they_gave(tmp_path):
    writer = Writer(tmp_path / "a.db", "u", "run")
    columns = Columns()
    with Store(tmp_path / "a.db") as store:
        writer.write([steps(("loss",), [5, 6, 9], [50, 60, 90])])
        before = columns.read(store, 1, ["loss"])["loss"]
        writer.write([steps(("loss",), [2, 7], [20, 70])])
        after = columns.read(store, 1, ["loss"])["loss"]
        assert before.steps.tolist() == [5, 6, 9]
        assert (after.steps.tolist(), after.values.tolist()) == ([2, 5, 6, 7, 9], [20, 50, 60, 70, 90])
    writer.finish()


def test_columns_of_the_run_that_was_asked_for_longest_ago_go_first(tmp_path):
    with_runs = [Writer(tmp_path / "a.db", f"u{i}", f"{i}") for i in range(3)]
    for writer in with_runs:
        writer.write([steps(("loss",), np.arange(500), np.arange(500))])
        writer.finish()
    columns = Columns(budget=20_000)
    nobodys = [f"made up {i}" for i in range(50)]
    with Store(tmp_path / "a.db") as store:
        for run in (1, 2, 1, 3):
            assert len(columns.read(store, run, ["loss", *nobodys])["loss"].steps) == 500
    assert [run for run, _ in columns._runs] == [1, 3]
    assert all(list(kept) == [("", "loss")] for kept in columns._runs.values())


@pytest.mark.parametrize("seed", range(5))
def test_counts_are_numpys(seed):
    rng = np.random.default_rng(seed)
    norms = rng.lognormal(0, 2, 777).round(2)  # ties, and zeros
    norms[rng.choice(777, 9, replace=False)] = np.nan
    norms[rng.choice(777, 9, replace=False)] = np.inf
    view = distribution(norms).view(1.0)
    finite = norms[np.isfinite(norms)]
    assert view["count"] == len(finite)
    assert view["nonfinite"] == 777 - len(finite)
    assert view["zeros"] == np.count_nonzero(finite == 0)
    assert sum(view["counts"]) + view["zeros"] == len(finite)
    expected, _ = np.histogram(finite[finite > 0], view["edges"])
    assert view["counts"] == expected.tolist()
    assert view["clipped"] == [int((finite > t).sum()) for t in view["thresholds"]]
    assert view["clipped"][0] == len(finite) - view["zeros"]
    assert view["clipped"][-1] == 0
    marks = {mark["name"]: mark for mark in view["marks"]}
    assert marks["threshold"]["clipped"] == int((finite > 1.0).sum())
    for name, q in (
        ("median", 50),
        ("90th percentile", 90),
        ("95th percentile", 95),
        ("99th percentile", 99),
    ):
        assert marks[name]["value"] == pytest.approx(np.percentile(finite, q), rel=1e-12)
        assert marks[name]["clipped"] == int((finite > marks[name]["value"]).sum())
    assert marks["mean"]["value"] == pytest.approx(finite.mean(), rel=1e-12)


@pytest.mark.parametrize(
    "norms", [[2.0], [2.0, 2.0], [5e-324, 1.7e308], [1e308, 1e308], [0.0, 3.0], [1e-300, np.inf]]
)
def test_odd_distributions(norms):
    view = distribution(np.array(norms)).view(np.inf)
    assert np.isfinite(view["edges"]).all()
    assert np.isfinite(view["thresholds"]).all()
    assert (np.diff(view["thresholds"]) >= 0).all()
    assert sum(view["counts"]) == np.count_nonzero(np.isfinite(norms) & (np.array(norms) > 0))
    assert all(np.isfinite(mark["value"]) for mark in view["marks"])


@pytest.mark.parametrize("norms", [[], [0.0, 0.0], [np.nan, np.inf]])
def test_no_distribution(norms):
    assert distribution(np.array(norms)).view(None)["edges"] == []


def layers_of(count, names=("a", "b", "c"), seed=0):
    rng = np.random.default_rng(seed)
    norms = rng.lognormal(0, 2, (count, len(names)))
    norms[rng.random(norms.shape) < 0.02] = np.nan
    norms[rng.random(norms.shape) < 0.02] = 0.0
    absent = rng.random(norms.shape) < 0.1
    return Layers(np.arange(count) * 10, tuple(names), np.where(absent, np.nan, norms), absent)


def test_each_cell_is_the_largest_norm_in_it():
    layers = layers_of(1000)
    low, high = 1000.0, 9000.0
    here = (layers.steps >= 990) & (layers.steps <= high)  # the one before the range comes along
    cut = Layers(layers.steps[here], layers.names, layers.norms[here], layers.absent[here])
    starts, cells = grid(cut, low, high, 40)
    parts = {}
    for i in np.flatnonzero(here):
        part = int(np.clip((layers.steps[i] - low) / 200.0, 0, 39))
        parts.setdefault(part, []).append(i)
    assert starts.tolist() == [layers.steps[rows[0]] for rows in parts.values()]
    for column, rows in enumerate(parts.values()):
        for row in range(3):
            here = [layers.norms[i, row] for i in rows if not layers.absent[i, row]]
            expected = np.nan if not here else np.inf if not np.isfinite(here).all() else max(here)
            np.testing.assert_equal(cells[row, column], expected)


def test_codes_of_cells():
    layers = layers_of(30)
    view = heat_view(layers, ["c", "a"], 0.0, 300.0, 400)
    codes = np.frombuffer(base64.b64decode(view["cells"]), "<u2").reshape(2, 30)
    for row, column in ((0, 2), (1, 0)):
        norms, absent = layers.norms[:, column], layers.absent[:, column]
        np.testing.assert_array_equal(codes[row] == ABSENT, absent)
        np.testing.assert_array_equal(codes[row] == BAD, ~absent & ~np.isfinite(norms))
        np.testing.assert_array_equal(codes[row] == ZERO, norms == 0)
        plain = np.isfinite(norms) & (norms > 0)
        share = (codes[row][plain] - 2) / 65532
        back = view["least"] * (view["largest"] / view["least"]) ** share
        np.testing.assert_allclose(back, norms[plain], rtol=1e-3)


def test_the_map_of_a_source_has_its_rows_alone():
    """Two sources are recorded at the same steps; at step 20 the first one comes in two parts."""
    nan = np.nan
    layers = Layers(
        np.array([10, 10, 20, 20, 20, 30, 30]),
        ("g", "h", "c"),
        np.array(
            [
                [1, 2, nan],
                [nan, nan, 9],
                [3, nan, nan],
                [nan, 4, nan],
                [nan, nan, 8],
                [5, 6, nan],
                [nan, nan, 7],
            ]
        ),
        np.array([[0, 0, 1], [1, 1, 0], [0, 1, 1], [1, 0, 1], [1, 1, 0], [0, 0, 1], [1, 1, 0]], dtype=bool),
    )
    for names, cells in ((["g", "h"], [[1, 3, 5], [2, 4, 6]]), (["c"], [[9, 8, 7]])):
        view = heat_view(layers, names, None, 30.0, 400)
        assert (view["starts"], view["recorded"], view["single"]) == ([10, 20, 30], 3, True)
        codes = np.frombuffer(base64.b64decode(view["cells"]), "<u2").reshape(len(names), 3)
        back = view["least"] * (view["largest"] / view["least"]) ** ((codes - 2.0) / 65532)
        np.testing.assert_allclose(back, cells, rtol=1e-3)
    assert heat_view(layers, ["c"], 25.0, 26.0, 400)["starts"] == [20]  # what still holds
    assert heat_view(layers, [], None, 30.0, 400)["starts"] == []


def test_layers_are_read_once(tmp_path):
    writer = Writer(tmp_path / "a.db", "u", "run")
    table, asked = LayerTable(), []
    with Store(tmp_path / "a.db") as store:
        assert table.read(store, 1, "", 0).norms.shape == (0, 0)
        for names, rows in (
            (("a", "b"), [[10, 1, 2], [20, 3, np.nan]]),
            (("b", "c"), [[30, 4, 5]]),
            (("a",), [[15, 6]]),
        ):
            writer.write([Rows("layers", names, np.array(rows, dtype=np.float64))])
            asked.append(table.last)
            found, whole = table.read(store, 1, "", 0), store.layers(1)
            assert (found.names, found.steps.tolist()) == (whole.names, whole.steps.tolist())
            np.testing.assert_array_equal(found.norms, whole.norms)
            np.testing.assert_array_equal(found.absent, whole.absent)
        assert asked == [0, 1, 2]
    writer.finish()


def test_the_lowest_rank_is_that_of_now(tmp_path):
    path = tmp_path / "a.db"
    ranks = [Writer(path, "u", "run", rank) for rank in (0, 1)]
    recording = Recording(path)

    def write(rank, value):
        norms = steps(("clipwise/norm",), [1, 2], [value, value])
        ranks[rank].write([norms, Rows("layers", ("w",), np.array([[1, value]]))])

    def shown():
        line = recording.series([1], [("", "clipwise/norm")])["1"][""]["clipwise/norm"]["line"]["y"]
        return line, recording.distribution(1)["marks"][0]["value"], recording.layers(1)["largest"]

    write(1, 2.0)
    assert shown() == ([2.0, 2.0], 2.0, 2.0)
    write(0, 1.0)
    assert shown() == ([1.0, 1.0], 1.0, 1.0)
    recording.close()
    for writer in ranks:
        writer.finish()


def test_what_json_has_no_word_for_is_said(tmp_path):
    Writer(tmp_path / "a.db", "u", "run").finish()
    with sqlite3.connect(tmp_path / "a.db") as old:
        old.execute("UPDATE runs SET facts = ?", ('{"lr": NaN, "bounds": [-Infinity, {"high": Infinity}]}',))
    recording = Recording(tmp_path / "a.db")
    found = recording.run(1)
    recording.close()
    assert found["facts"] == {"lr": "nan", "bounds": ["-inf", {"high": "inf"}]}


def test_of_many_alerts_the_last_ones_are_told():
    alerts = [Alert("r", "info", step, "seen", "why", "advice") for step in range(250)]
    views = alert_views(alerts)
    assert [one["step"] for one in views] == list(range(250))
    assert views[0] == {"level": "info", "step": 0}
    assert [one["step"] for one in views if "seen" in one] == list(range(150, 250))


def test_what_was_logged():
    own = ["clipwise/norm", "clipwise/threshold", "time"]
    assert logged_of({"a": [*own, "loss"], "": ["acc", "val_loss", "clipwisdom"]}) == [
        ("a", "loss"),
        ("", "val_loss"),
        ("", "acc"),
        ("", "clipwisdom"),
    ]
    assert logged_of({"": ["loss", "clipwise/threshold"], "a": ["loss"]}) == [("", "loss"), ("a", "loss")]
    assert logged_of({"": ["clipwise/norm", "clipwise/update_ratio"]}) == [("", "clipwise/update_ratio")]
