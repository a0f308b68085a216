"""The versions that a run used."""

import platform
import sys
from typing import Any


def versions() -> dict[str, Any]:
    """The versions of Python and of the imported frameworks."""
    loaded: dict[str, Any] = {
        name: str(getattr(sys.modules[name], "__version__", "?"))
        for name in ("torch", "jax", "keras", "tensorflow")
        if name in sys.modules
    }
    return {"python": platform.python_version(), **loaded}
