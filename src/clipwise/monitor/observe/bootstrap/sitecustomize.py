"""Loaded by Python at start-up; then loads the ``sitecustomize`` that it hides, as if this one did not exist.

Any Python may load it, so this file and ``old_python.py`` use only syntax that the oldest ones accept.
"""

import os
import sys

LEAST = (3, 11)


def _observe(folder):  # type: (str) -> None
    """Load the package of this folder under a name of its own, and begin."""
    import importlib.util

    spec = importlib.util.spec_from_file_location(
        "_clipwise_observe", os.path.join(folder, "__init__.py"), submodule_search_locations=[folder]
    )
    assert spec is not None
    assert spec.loader is not None
    package = sys.modules["_clipwise_observe"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(package)
    package.begin()


def _stand_back(folder):  # type: (str) -> None
    """In a Python that is too old: say so where something trains, and leave all as it is."""
    source = os.path.join(folder, "old_python.py")
    names = {"__name__": "_clipwise_old_python", "LEAST": LEAST}
    with open(source) as file:
        exec(compile(file.read(), source, "exec"), names)
    names["begin"]()  # type: ignore[operator]


def _hidden():  # type: () -> None
    """Run the ``sitecustomize`` that stands further down in the path; Python says what is wrong with it."""
    if sys.version_info < (3, 5):  # noqa: UP036
        del sys.modules["sitecustomize"]
        try:  # noqa: SIM105
            __import__("sitecustomize")
        except ImportError:
            pass
        return
    import importlib.machinery
    import importlib.util

    spec = importlib.machinery.PathFinder.find_spec("sitecustomize")
    if spec is not None and spec.loader is not None:
        module = sys.modules["sitecustomize"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)


def _run():  # type: () -> None
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [entry for entry in sys.path if not entry or os.path.abspath(entry) != here]
    try:
        (_observe if sys.version_info >= LEAST else _stand_back)(here)
    except Exception as error:  # whatever it is, the script is to run
        words = "clipwise observe: nothing is recorded here: {}: {}\n"
        sys.stderr.write(words.format(type(error).__name__, error))
    _hidden()


if "CLIPWISE_OBSERVE" in os.environ:
    _run()
