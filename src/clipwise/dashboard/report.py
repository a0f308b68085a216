"""A report: the charts of the live page for some runs, as one file without server and network."""

import json
from collections.abc import Sequence
from typing import Any

from clipwise.dashboard.assets import UPLOT, assets
from clipwise.dashboard.bundle import bundle
from clipwise.dashboard.document import document
from clipwise.dashboard.recording import Recording
from clipwise.monitor.store import HELD, PREFIX

BUCKETS = 2000
COLUMNS = 400
DRAWN = ("norm", "threshold", "clip_fraction", "direction", "at_bound")
STYLES = (f"{UPLOT}/uPlot.min.css", "css/base.css", "css/layout.css", "css/panels.css")


def collect(recording: Recording, runs: Sequence[int]) -> dict[str, Any]:
    """The content of a report: all data that the page would request, for all steps.

    Args:
        recording: the file.
        runs: numbers of the runs; each can be selected, with others overlaid.
    """
    for number in runs:
        recording.advice(number)  # first, for how each came out is said with the run
    listed = {run["id"]: run for run in recording.runs()}
    run = {str(id_): recording.run(id_) for id_ in runs}
    series: dict[str, Any] = {}
    distributions: dict[str, Any] = {}
    layers: dict[str, Any] = {}
    advice: dict[str, Any] = {}
    for id_, one in run.items():
        number = int(id_)
        wanted = [(logged["source"], logged["name"]) for logged in one["logged"]]
        wanted += [(source, PREFIX + name) for source in one["sources"] for name in DRAWN]
        wanted += [(source, HELD + reason) for source, own in one["reasons"].items() for reason in own]
        wanted += [(source, "time") for source in dict.fromkeys(("", *one["sources"]))]
        series |= recording.series([number], wanted, buckets=BUCKETS)
        sources = one["sources"] or [""]
        distributions[id_] = {source: recording.distribution(number, source) for source in sources}
        layers[id_] = {source: recording.layers(number, source, columns=COLUMNS) for source in sources}
        advice[id_] = {source: recording.advice(number, source) for source in sources}
    return {
        "runs": [listed[id_] for id_ in runs],
        "run": run,
        "series": series,
        "distribution": distributions,
        "layers": layers,
        "advice": advice,
    }


def render(data: dict[str, Any]) -> str:
    """The report as HTML text."""
    files = {name: content.decode("utf-8") for name, content in assets().items()}
    scripts = [files[f"{UPLOT}/uPlot.iife.min.js"], bundle("report.js")]
    styles = [files[name] for name in STYLES]
    body = f"""<div id="app"></div>
<noscript><p>This page needs JavaScript, which it carries itself.</p></noscript>
<!-- uPlot, which draws the lines:
{_licence()}-->
<script type="application/json" id="data">{_json(data)}</script>"""
    title = ", ".join(run["name"] for run in data["runs"])
    return document(f"{title} · clipwise", body, styles=styles, scripts=scripts, icon=files["icon.svg"])


def _json(data: dict[str, Any]) -> str:
    # A name may hold "</script>" or "<!--": no "<" is left in what the browser reads as text of a script.
    return json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def _licence() -> str:
    from importlib.resources import files

    return files("clipwise.dashboard").joinpath("static", *UPLOT.split("/"), "LICENSE").read_text("utf-8")
