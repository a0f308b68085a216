"""Clipping of data: outliers are clipped to bounds (winsorizing), in arrays, data frames and files.

::

    clipper = clipwise.data.Clipper("quantiles", low=0.01, high=0.99).fit(X_train)   # for scikit-learn
    X_test = clipper.transform(X_test)

    bounds = clipwise.data.learn(frame, "iqr", columns=["amount"])    # pandas, Polars, PyArrow, DuckDB, ...
    frame = clipwise.data.clip(frame, bounds)                         # done by the engine; lazy stays lazy

    clipwise.data.clip_file("in.parquet", "out.parquet", "quantiles", low=0.01, high=0.99)   # of any size

Heavy packages are imported on first use: scikit-learn for `Clipper`, narwhals for frames, DuckDB for files.
"""

import importlib
from typing import TYPE_CHECKING, Any

from clipwise.data._bounds import Bounds
from clipwise.data._report import ClippingReport, ColumnReport

if TYPE_CHECKING:
    from clipwise.data.clipper import Clipper
    from clipwise.data.files import clip_file
    from clipwise.data.frames import clip, learn, report

__all__ = ["Bounds", "Clipper", "ClippingReport", "ColumnReport", "clip", "clip_file", "learn", "report"]

_WHERE = {"Clipper": "clipper", "clip": "frames", "clip_file": "files", "learn": "frames", "report": "frames"}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'clipwise.data' has no attribute {name!r}")
    return getattr(importlib.import_module(f"clipwise.data.{_WHERE[name]}"), name)


def __dir__() -> list[str]:
    return __all__
