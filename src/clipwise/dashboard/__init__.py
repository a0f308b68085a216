"""The live page of a recording, and the report, which is the page as one file."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clipwise.dashboard.serve import Dashboard

__all__ = ["Dashboard"]


def __getattr__(name: str) -> Any:
    if name != "Dashboard":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from clipwise.dashboard.serve import Dashboard  # a picture needs no server

    return Dashboard
