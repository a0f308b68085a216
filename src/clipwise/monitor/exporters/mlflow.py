"""Export to MLflow: a run in a tracking store."""

import os
import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from clipwise.monitor.exporters._base import A_RUN_EACH, Option, Renamer, Tool
from clipwise.monitor.exporters._steps import Clock, named
from clipwise.monitor.store import Alert, Moment

METRICS_AT_ONCE, PARAMS_AT_ONCE, LONGEST_VALUE = 1000, 100, 6000
"""What one call of MLflow takes."""

FORBIDDEN = r"[^\w.\- :/]|(?<=/)/+|^/+|/+$|(?<![^/])\.{1,2}(?=/|$)"
"""What a name of MLflow's may not have: other characters, and what is no plain path."""


class MLflow(Tool):
    """An MLflow run: every series with steps and times, facts as parameters, alerts in ``alerts.txt``.

    NaN is stored as NaN. Inf is stored as the tracking store does: an SQL store keeps 1.797e308, the largest
    float64. The norm of a parameter's gradient is named ``clipwise/layers/<parameter>``, since in a file
    store ``clipwise/norm`` cannot also be a folder. Characters that MLflow does not allow in names become
    ``_``.

    MLflow's telemetry is turned off, unless ``MLFLOW_DISABLE_TELEMETRY`` says otherwise.

    Args:
        folder: folder for ``mlflow.db`` and the artifacts; by default MLflow's own choice.
        uri: URI of a tracking store or server, instead of a folder.
        experiment: name of the experiment, which is created if it does not exist.

    Attributes:
        place: run and tracking store, for people, once the run has begun.
        run_id: MLflow's id of the run.

    Raises:
        MissingPackageError: mlflow is not installed.
    """

    name = "mlflow"
    extra = "mlflow"
    options = MappingProxyType(
        {
            "--out": Option("folder", "the folder of mlflow.db [MLflow's own choice]"),
            "--project": Option("experiment", "the experiment [clipwise]", metavar="NAME"),
        }
    )
    lacks = A_RUN_EACH

    def __init__(
        self,
        folder: str | os.PathLike[str] | None = None,
        *,
        uri: str | None = None,
        experiment: str = "clipwise",
    ) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        self._mlflow = self.load("mlflow")
        self._entities = self.load("mlflow.entities")
        self._folder, self._uri, self._experiment = folder, uri, experiment
        self.place, self.run_id = "", ""

    def begin(self, run: str, facts: Mapping[str, Any], started: float | None = None) -> None:
        uri, artifacts = self._uri, None
        if uri is None and self._folder is not None:
            folder = Path(self._folder).absolute()
            folder.mkdir(parents=True, exist_ok=True)
            uri, artifacts = f"sqlite:///{(folder / 'mlflow.db').as_posix()}", (folder / "artifacts").as_uri()
        client = self._client = self._mlflow.MlflowClient(uri)
        found = client.get_experiment_by_name(self._experiment)
        number = (
            client.create_experiment(self._experiment, artifact_location=artifacts)
            if found is None
            else found.experiment_id
        )
        started = time.time() if started is None else started
        made = client.create_run(number, start_time=_ms(started), run_name=run)
        self.run_id = made.info.run_id
        self.place = f"run {self.run_id} of {client.tracking_uri}"
        self._names, self._clock, self._last = Renamer(FORBIDDEN), Clock(started), started
        self._said: list[str] = []
        keys = Renamer(FORBIDDEN)
        params = [
            self._entities.Param(keys[str(key)], str(value)[:LONGEST_VALUE]) for key, value in facts.items()
        ]
        for start in range(0, len(params), PARAMS_AT_ONCE):
            client.log_batch(self.run_id, params=params[start : start + PARAMS_AT_ONCE])

    def write(self, moments: Sequence[Moment], alerts: Sequence[Alert] = ()) -> None:
        metrics = []
        for step in self._clock.steps(moments):
            when = _ms(step.time)
            metrics += [
                self._entities.Metric(self._names[name], value, when, step.step)
                for name, value in named(step, "clipwise/layers/").items()
            ]
            self._last = max(self._last, step.time)
        for start in range(0, len(metrics), METRICS_AT_ONCE):
            self._client.log_batch(self.run_id, metrics=metrics[start : start + METRICS_AT_ONCE])
        if alerts:  # few, and the file is there while the run goes on
            self._said += [f"{alert.level}, {alert.rule}, rank {alert.rank}: {alert}" for alert in alerts]
            self._client.log_text(self.run_id, "\n".join(self._said) + "\n", "alerts.txt")

    def close(self, status: str = "finished") -> None:
        if self.run_id:
            said = {
                "finished": "FINISHED",
                "diverged": "FINISHED",
                "failed": "FAILED",
                "running": "RUNNING",
            }.get(status, "KILLED")
            self._client.set_terminated(self.run_id, said, end_time=_ms(self._last))
            self.run_id = ""

    def hint(self) -> str:
        return shlex.join(["mlflow", "ui", "--backend-store-uri", self._client.tracking_uri])


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
