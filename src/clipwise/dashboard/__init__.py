"""The live page, and the report that is kept: what a recording looks like."""

from clipwise.dashboard.serve import Dashboard

__all__ = ["Dashboard"]
