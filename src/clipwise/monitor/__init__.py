"""Watching a training: a recorder that costs a step next to nothing, and recordings on disk."""

from clipwise.monitor._flusher import MonitorWarning
from clipwise.monitor.recorder import Monitor
from clipwise.monitor.store import Alert, Layers, Run, Series, Store

__all__ = ["Alert", "Layers", "Monitor", "MonitorWarning", "Run", "Series", "Store"]
