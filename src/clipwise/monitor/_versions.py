"""What a run ran on."""

import platform
import sys
from typing import Any


def versions() -> dict[str, Any]:
    """Of Python, and of the frameworks that are loaded."""
    loaded: dict[str, Any] = {
        name: str(getattr(sys.modules[name], "__version__", "?"))
        for name in ("torch", "jax", "keras", "tensorflow")
        if name in sys.modules
    }
    return {"python": platform.python_version(), **loaded}
