"""The packages of the extra ``clipwise[data]``, imported where they are needed."""

from typing import Any

from clipwise import extras


def load(name: str) -> Any:
    """A package or a module of one; where it is missing, the error says how to install it."""
    return extras.load(name, purpose="clipwise.data", extra="data")
