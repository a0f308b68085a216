"""Observing a command: its processes are recorded, and the training scripts in them stay as they are."""

from clipwise.monitor.observe.session import observe

__all__ = ["observe"]
