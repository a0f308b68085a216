"""Logs that other tools have written: their gradient norms and losses, read as a recording.

`read_log` reads a file, and `recorded` makes a recording of it for functions that take one.
"""

from clipwise.monitor.logs.columns import Columns, columns_of
from clipwise.monitor.logs.files import read_rows
from clipwise.monitor.logs.recording import Log, read_log, recorded

__all__ = ["Columns", "Log", "columns_of", "read_log", "read_rows", "recorded"]
