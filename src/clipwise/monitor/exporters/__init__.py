"""Recordings in the tools that people have: one file a tool, each loaded when it is first used.

=============  ===================  ==========================================
tool           class, function      needs
=============  ===================  ==========================================
TensorBoard    `TensorBoard`        ``pip install "clipwise[tensorboard]"``
Weights &      `Wandb`              ``pip install "clipwise[wandb]"``
Biases
MLflow         `MLflow`             ``pip install "clipwise[mlflow]"``
trackio        `Trackio`            ``pip install "clipwise[trackio]"``
CSV            `CSV`                nothing
Parquet        `Parquet`            ``pip install "clipwise[parquet]"``
=============  ===================  ==========================================

Every class is an `Exporter`: a `Monitor` feeds it while a run goes on, and ``to_tensorboard(store, run,
folder)`` and its kin feed it with a run that was recorded.
"""

from clipwise.monitor.exporters._base import Exporter, Taken
from clipwise.monitor.exporters._feed import Fed, feed
from clipwise.monitor.exporters.csv import CSV, to_csv
from clipwise.monitor.exporters.mlflow import MLflow, to_mlflow
from clipwise.monitor.exporters.parquet import Parquet, to_parquet
from clipwise.monitor.exporters.tensorboard import TensorBoard, to_tensorboard
from clipwise.monitor.exporters.trackio import Trackio, to_trackio
from clipwise.monitor.exporters.wandb import Wandb, to_wandb

__all__ = [
    "CSV",
    "Exporter",
    "Fed",
    "MLflow",
    "Parquet",
    "Taken",
    "TensorBoard",
    "Trackio",
    "Wandb",
    "feed",
    "to_csv",
    "to_mlflow",
    "to_parquet",
    "to_tensorboard",
    "to_trackio",
    "to_wandb",
]
