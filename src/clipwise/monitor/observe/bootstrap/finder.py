"""Runs an action after a module has been imported."""

import importlib.util
from collections.abc import Callable, Mapping
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from . import say  # it has another name here


class Finder:
    """An import finder that lets the others find a module, and acts after it has been loaded.

    Args:
        actions: by name of the module.
    """

    def __init__(self, actions: Mapping[str, Callable[[], None]]) -> None:
        self._actions = dict(actions)
        self._asking: set[str] = set()

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name not in self._actions or name in self._asking:
            return None
        self._asking.add(name)
        try:
            spec = importlib.util.find_spec(name)
        finally:
            self._asking.discard(name)
        if spec is not None and spec.loader is not None:
            _after(spec.loader, self._actions[name])
        return spec


def _after(loader: Any, action: Callable[[], None]) -> None:
    """Have this loader act after it has loaded its module; then nothing is left of it in the loader."""
    load = loader.exec_module

    def exec_module(module: ModuleType) -> None:
        del loader.exec_module
        load(module)
        try:
            action()
        except Exception as error:  # whatever it is, the script is to run
            say(f"{module.__name__} is not recorded: {type(error).__name__}: {error}")

    loader.exec_module = exec_module
