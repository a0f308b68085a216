"""Recordings on disk: SQLite, one file for any number of runs and processes."""

from clipwise.monitor.store.naming import gradients_in, prefix_of, sources_in
from clipwise.monitor.store.reader import Found, Store
from clipwise.monitor.store.records import Alert, Floats, Layers, Level, Rows, Run, Series
from clipwise.monitor.store.writer import Writer

__all__ = [
    "Alert",
    "Floats",
    "Found",
    "Layers",
    "Level",
    "Rows",
    "Run",
    "Series",
    "Store",
    "Writer",
    "gradients_in",
    "prefix_of",
    "sources_in",
]
