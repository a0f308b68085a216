"""What `clipwise observe` loads into each Python process of the command; it does nothing until a step.

The folder is put into ``PYTHONPATH``, so that Python loads its ``sitecustomize`` at start-up. Nothing here
imports clipwise, a framework or anything else that the script might not import. It waits until the script has
imported torch or keras, and loads clipwise at the first optimizer step.
"""

import importlib
import importlib.util
import os
import sys
from typing import Any

__all__ = ["SETTINGS", "begin", "clipwise_module", "say"]

SETTINGS = "CLIPWISE_OBSERVE"
"""The environment variable that says what is to be recorded, and where."""

_said: set[str] = set()


def begin() -> None:
    """Wait for the script to import a framework."""
    if SETTINGS not in os.environ:
        return
    finder = importlib.import_module(f"{__name__}.finder")
    sys.meta_path.insert(0, finder.Finder({"torch": _torch, "keras": _keras}))


def say(sentence: str) -> None:
    """Write one line to stderr, once per process."""
    if sentence not in _said and sys.stderr is not None:
        _said.add(sentence)
        print(f"clipwise observe: {sentence}", file=sys.stderr, flush=True)


def clipwise_module(name: str) -> Any:
    """A module of the observing clipwise, which need not be installed in this Python.

    Raises:
        ImportError: it cannot be loaded here, for example because this Python has no numpy.
    """
    if "clipwise" not in sys.modules and importlib.util.find_spec("clipwise") is None:
        import json  # not before it is needed: every Python process loads this file

        folder = json.loads(os.environ[SETTINGS])["package"]
        spec = importlib.util.spec_from_file_location(
            "clipwise", os.path.join(folder, "__init__.py"), submodule_search_locations=[folder]
        )
        assert spec is not None
        assert spec.loader is not None
        module = sys.modules["clipwise"] = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules["clipwise"]
            raise
    return importlib.import_module(f"clipwise.{name}")


def _torch() -> None:
    importlib.import_module(f"{__name__}.torch_hooks").begin()


def _keras() -> None:
    importlib.import_module(f"{__name__}.keras_hooks").begin()
