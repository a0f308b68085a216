"""The files of the page by name; no other files are served."""

from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable

UPLOT = "vendor/uplot-1.6.32"
TYPES = {
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "svg": "image/svg+xml",
}


@cache
def assets() -> dict[str, bytes]:
    """Content by name below ``static``, such as ``js/main.js``."""
    found: dict[str, bytes] = {}

    def collect(folder: Traversable, prefix: str) -> None:
        for entry in sorted(folder.iterdir(), key=lambda one: one.name):
            if entry.is_dir():
                collect(entry, f"{prefix}{entry.name}/")
            elif entry.name.rpartition(".")[2] in TYPES:
                found[prefix + entry.name] = entry.read_bytes()

    collect(files("clipwise.dashboard").joinpath("static"), "")
    return found
