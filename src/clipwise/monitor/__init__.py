"""Recording of training runs: a recorder that hardly slows a step, and recordings on disk."""

from clipwise.monitor._warning import MonitorWarning
from clipwise.monitor.recorder import Monitor
from clipwise.monitor.store import Alert, Layers, Moment, Run, Series, Store

__all__ = ["Alert", "Layers", "Moment", "Monitor", "MonitorWarning", "Run", "Series", "Store"]
