"""Threshold policies: rules that give the largest norm a gradient may have in each step.

A policy is a frozen dataclass with two pure functions, ``init(xp, shape)`` and ``update(xp, state, seen)``;
see `Threshold` and `Observation`. To add one, write a file in this folder, export it below, and add a row to
the table in the tests.
"""

from clipwise.checks import check_number
from clipwise.thresholds._auto import auto
from clipwise.thresholds._automatic import automatic
from clipwise.thresholds._base import Conditions, Observation, Threshold, WithReasons
from clipwise.thresholds._fixed import fixed
from clipwise.thresholds._mean import mean
from clipwise.thresholds._moment_ratio import moment_ratio
from clipwise.thresholds._percentile import percentile
from clipwise.thresholds._quantile_ema import quantile_ema
from clipwise.thresholds._reduce_on_instability import reduce_on_instability
from clipwise.thresholds._relative import relative
from clipwise.thresholds._rolling_zscore import rolling_zscore
from clipwise.thresholds._schedules import cosine, exponential, linear, schedule
from clipwise.thresholds._tensor_average import tensor_average
from clipwise.thresholds._zscore import zscore

__all__ = [
    "Conditions",
    "Observation",
    "Threshold",
    "WithReasons",
    "auto",
    "automatic",
    "check_number",
    "cosine",
    "exponential",
    "fixed",
    "linear",
    "mean",
    "moment_ratio",
    "percentile",
    "quantile_ema",
    "reduce_on_instability",
    "relative",
    "rolling_zscore",
    "schedule",
    "tensor_average",
    "zscore",
]
