"""The packages of the extra ``clipwise[data]``, imported where they are needed."""

import importlib
from typing import Any

__all__ = ["load"]


def load(name: str) -> Any:
    """A package; where it is not installed, the error says how to install it."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name.partition(".")[0]:
            raise
        raise ModuleNotFoundError(
            f'clipwise.data needs {error.name}, which is not installed: pip install "clipwise[data]"',
            name=error.name,
        ) from error
