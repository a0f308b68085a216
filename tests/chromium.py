"""The Chromium of this machine, for tests that look at a page and for the pictures of the documentation."""

import os
import shutil

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def program() -> str | None:
    """What CLIPWISE_CHROMIUM names, or a Chromium on PATH."""
    return os.environ.get("CLIPWISE_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
