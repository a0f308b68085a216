"""The files of a result: JSON with everything, CSV with one row per run, the picture, and the page."""

import platform
from importlib import metadata

from clipwise.lab.compare.verdict import headline
from clipwise.lab.config.lab_config import LabConfig
from clipwise.lab.report.page import render
from clipwise.lab.report.picture import draw
from clipwise.lab.report.results import Results
from clipwise.lab.report.table import csv_text
from clipwise.lab.training.threads import threads

__all__ = ["environment", "files"]


def files(results: Results) -> dict[str, str | bytes]:
    """Name to content: ``comparison.json``, ``.csv``, ``.png`` and ``.html``, or ``training.*``."""
    groups = results.groups()
    title = headline(groups)
    light, dark = (draw(results.records, groups, theme=theme) for theme in ("light", "dark"))
    return {
        f"{results.name}.json": results.to_json(),
        f"{results.name}.csv": csv_text(groups),
        f"{results.name}.png": draw(results.records, groups, title=title),
        f"{results.name}.html": render(results, light=light, dark=dark),
    }


def environment(config: LabConfig) -> dict[str, str]:
    """The versions and the device that the numbers depend on."""
    import torch

    device = config.device
    if device == "auto":
        device = (
            "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        )
    kind = torch.cuda.get_device_name() if device == "cuda" else platform.machine() or "unknown"
    count = threads(config)
    used = f", {count} thread{'s' if count > 1 else ''}" if device == "cpu" else ""
    shared = f", {config.strategy}" if config.devices > 1 else ""
    versions = {name: metadata.version(name) for name in ("clipwise", "torch", "lightning-fabric", "numpy")}
    return versions | {
        "Python": platform.python_version(),
        "system": platform.system(),
        "device": f"{config.devices} x {device} ({kind}{used}){shared}, precision {config.precision}",
    }
