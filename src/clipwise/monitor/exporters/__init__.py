"""Exporters of recordings to other tools: one file per tool, loaded on first use.

=============  ===================  ==========================================
tool           class                needs
=============  ===================  ==========================================
TensorBoard    `TensorBoard`        ``pip install "clipwise[tensorboard]"``
Weights &      `Wandb`              ``pip install "clipwise[wandb]"``
Biases
MLflow         `MLflow`             ``pip install "clipwise[mlflow]"``
trackio        `Trackio`            ``pip install "clipwise[trackio]"``
CSV            `CSV`                nothing
Parquet        `Parquet`            ``pip install "clipwise[parquet]"``
=============  ===================  ==========================================

Every class is an `Exporter`: a `Monitor` writes to it during a run, and ``export(store, run, exporter)``
exports a run that was recorded before.
"""

from clipwise.monitor.exporters._base import Exporter, Option, Taken, Tool
from clipwise.monitor.exporters._export import Exported, export
from clipwise.monitor.exporters.csv import CSV
from clipwise.monitor.exporters.mlflow import MLflow
from clipwise.monitor.exporters.parquet import Parquet
from clipwise.monitor.exporters.tensorboard import TensorBoard
from clipwise.monitor.exporters.trackio import Trackio
from clipwise.monitor.exporters.wandb import Wandb

__all__ = [
    "CSV",
    "TOOLS",
    "Exported",
    "Exporter",
    "MLflow",
    "Option",
    "Parquet",
    "Taken",
    "TensorBoard",
    "Tool",
    "Trackio",
    "Wandb",
    "export",
]

TOOLS: dict[str, type[Tool]] = {
    tool.name: tool for tool in (TensorBoard, Wandb, MLflow, Trackio, CSV, Parquet)
}
"""What ``clipwise export`` offers."""
