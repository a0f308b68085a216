"""The packages of the extra ``clipwise[data]``, imported where they are needed."""

import importlib
from typing import Any

__all__ = ["load"]


def load(name: str) -> Any:
    """A package or a module of one; where it is missing, the error says how to install it."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if not f"{name}.".startswith(f"{error.name}."):
            raise
        raise ModuleNotFoundError(
            f'clipwise.data needs {error.name}, which is not installed: pip install -U "clipwise[data]"',
            name=error.name,
        ) from error
