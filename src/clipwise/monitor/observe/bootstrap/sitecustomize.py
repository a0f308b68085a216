"""Loaded by Python at its start; then the ``sitecustomize`` that this one hides, as if it were not there."""

import importlib.machinery
import importlib.util
import os
import sys


def _observe(folder: str) -> None:
    """Load the package of this folder under a name of its own, and begin."""
    spec = importlib.util.spec_from_file_location(
        "_clipwise_observe", os.path.join(folder, "__init__.py"), submodule_search_locations=[folder]
    )
    assert spec is not None
    assert spec.loader is not None
    package = sys.modules["_clipwise_observe"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(package)
    package.begin()


def _hidden() -> None:
    """Run the ``sitecustomize`` that stands further down in the path; Python says what is wrong with it."""
    spec = importlib.machinery.PathFinder.find_spec("sitecustomize")
    if spec is not None and spec.loader is not None:
        module = sys.modules["sitecustomize"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)


def _run() -> None:
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [entry for entry in sys.path if not entry or os.path.abspath(entry) != here]
    try:
        _observe(here)
    except Exception as error:  # whatever it is, the script is to run
        print(f"clipwise observe: nothing is recorded here: {type(error).__name__}: {error}", file=sys.stderr)
    _hidden()


if "CLIPWISE_OBSERVE" in os.environ:
    _run()
