"""Recordings on disk: one SQLite file for any number of runs and processes."""

from clipwise.monitor.store._schema import is_settled
from clipwise.monitor.store.editing import annotate, delete, rename
from clipwise.monitor.store.moments import Moment, moments_of, steps_of
from clipwise.monitor.store.naming import (
    ADAM,
    AT_BOUND,
    CLIP_CALLS,
    FIELDS,
    HELD,
    LOSSES,
    NORM,
    PREFIX,
    UPDATE,
    is_figure,
    is_part,
    joined,
    part_of,
)
from clipwise.monitor.store.overview import Overview, arranged, sweeps
from clipwise.monitor.store.place import recordable
from clipwise.monitor.store.reader import Found, Store
from clipwise.monitor.store.records import Alert, Floats, Layers, Level, Rows, Run, Series
from clipwise.monitor.store.writer import Writer

__all__ = [
    "ADAM",
    "AT_BOUND",
    "CLIP_CALLS",
    "FIELDS",
    "HELD",
    "LOSSES",
    "NORM",
    "PREFIX",
    "UPDATE",
    "Alert",
    "Floats",
    "Found",
    "Layers",
    "Level",
    "Moment",
    "Overview",
    "Rows",
    "Run",
    "Series",
    "Store",
    "Writer",
    "annotate",
    "arranged",
    "delete",
    "is_figure",
    "is_part",
    "is_settled",
    "joined",
    "moments_of",
    "part_of",
    "recordable",
    "rename",
    "steps_of",
    "sweeps",
]
