"""The live page, and the report that is kept: what a recording looks like."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clipwise.dashboard.serve import Dashboard

__all__ = ["Dashboard"]


def __getattr__(name: str) -> Any:
    if name != "Dashboard":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from clipwise.dashboard.serve import Dashboard  # a picture needs no server

    return Dashboard
