"""MLflow's own client reads what was written, out of a store on disk."""

import os
from types import SimpleNamespace

import pytest

from clipwise.monitor.exporters import MLflow, export
from clipwise.monitor.exporters._base import Renamer
from clipwise.monitor.exporters.mlflow import FORBIDDEN
from clipwise.monitor.store import Moment, Store

from .conftest import ALERT, LATE, LAYERS, LOSS, NORM, SECOND, START, TIMES, pieces, record, same

pytest.importorskip("mlflow", reason="mlflow is not installed")
pytest.importorskip("sqlalchemy", reason="sqlalchemy, which MLflow's local store needs, is not installed")

RUN = "lstm: <b>/1"
LARGEST = 1.7976931348623157e308


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Two exports into one folder: making a store takes MLflow seconds."""
    folder = tmp_path_factory.mktemp("mlflow")
    with Store(record(folder / "clipwise.db")) as store:
        for run in (RUN, "plain"):
            export(store, run, MLflow(folder / "out", experiment="mine"))
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder / 'out' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("mine")
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    return SimpleNamespace(folder=folder, client=client, runs=runs)


def series(exported, name, run=RUN):
    return {
        one.step: one.value
        for one in exported.client.get_metric_history(exported.runs[run].info.run_id, name)
    }


def test_every_series_with_its_steps(exported):
    assert set(exported.runs[RUN].data.metrics) == {
        "loss",
        "clipwise/norm",
        "accuracy",
        "clipwise/layers/a.weight",
        "clipwise/layers/a.bias",
    }
    same(series(exported, "loss"), LOSS | {3: LARGEST, 4: -LARGEST})  # what its SQL store makes of Inf
    same(series(exported, "clipwise/norm"), NORM)
    same(series(exported, "accuracy"), LATE)
    same(series(exported, "clipwise/layers/a.weight"), {s: v["a.weight"] for s, v in LAYERS.items()})
    assert series(exported, "loss", "plain") == {1: 2.0}


def test_times_facts_and_how_it_ended(exported):
    run = exported.runs[RUN]
    history = exported.client.get_metric_history(run.info.run_id, "accuracy")
    assert {one.step: one.timestamp for one in history} == {s: round(TIMES[s] * 1000) for s in LATE}
    assert run.info.status == "FINISHED"
    assert run.info.start_time == round(START * 1000)
    assert run.info.end_time == round(TIMES[5] * 1000)
    assert (run.data.params["seed"], run.data.params["clip"]) == ("3", "clip_by_norm(1.0)")
    assert run.data.params["command"] == "python t.py"
    assert exported.runs["plain"].info.status == "FAILED"
    assert exported.runs["plain"].data.params["note"] == "ValueError: no"


def test_alerts_are_a_text_beside_it(exported):
    run = exported.runs[RUN].info.run_id
    assert [one.path for one in exported.client.list_artifacts(run)] == ["alerts.txt"]
    text = next((exported.folder / "out" / "artifacts").rglob("alerts.txt")).read_text()
    assert text == f"critical, loss_nonfinite, rank 1: {ALERT}\nwarning, spike, rank 0: {SECOND}\n"


def test_live_in_portions_and_with_names_that_mlflow_does_not_take(exported, tmp_path):
    # Made by the exporter it would have its artifacts where the process was started.
    exported.client.create_experiment("live", artifact_location=tmp_path.as_uri())
    exporter = MLflow(uri=exported.client.tracking_uri, experiment="live")
    exporter.begin("live", {f"fact {n}?": "x" * 9000 for n in range(120)}, started=START)
    run = exporter.run_id
    for some in pieces():
        exporter.write(some)
    exporter.write([Moment(9, "", {"a?": 1.5, "a!": 2.5})])
    many = [Moment(step, "", {"many": float(step)}, time=float(step)) for step in range(1500)]
    exporter.write(many, [ALERT])
    assert exported.client.get_run(run).info.status == "RUNNING"
    exporter.write([], [SECOND])
    exporter.close()
    found = exported.client.get_run(run)
    assert found.info.status == "FINISHED"
    assert (found.data.metrics["a_"], found.data.metrics["a_-2"]) == (1.5, 2.5)
    assert len(found.data.params) == 120
    assert set(found.data.params) == {f"fact {n}_" for n in range(120)}
    assert len(exported.client.get_metric_history(run, "many")) == 1500
    history = exported.client.get_metric_history(run, "accuracy")
    assert {one.step: one.value for one in history} == LATE


@pytest.mark.parametrize(
    "name", ["a?b", "/a", "a//b", "../a", "a/./b", "a/", "a/..", "..", ".", "a.b/c-d e:f"]
)
def test_every_name_becomes_one_that_mlflow_takes(name):
    from mlflow.utils.validation import _validate_metric_name

    _validate_metric_name(Renamer(FORBIDDEN)[name])


def test_it_reports_to_nobody(exported):
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
