"""Observation of a command: the trainings in its processes are recorded, with unmodified scripts."""

from clipwise.monitor.observe.session import observe

__all__ = ["observe"]
