"""The report: one file, without a server, that shows what the live page shows; and the two commands."""

import base64
import hashlib
import io
import json
import os
import re
import signal
import subprocess
import sys

import numpy as np
import pytest

from clipwise.cli import main
from clipwise.dashboard.assets import assets
from clipwise.dashboard.bundle import EXPORT, IMPORT, bundle
from clipwise.dashboard.picture import picture
from clipwise.dashboard.recording import Recording
from clipwise.dashboard.report import collect

from .databases import HOSTILE, by_parts, held_by_turns, hostile, two_ranks, two_sources, typical
from .test_page import PANELS, colours, reading, ready, until


@pytest.fixture
def path(tmp_path):
    return tmp_path / "runs.db"


def report(path, *arguments):
    out = path.with_name("report.html")
    assert main(["report", *map(str, arguments), "--db", str(path), "-o", str(out)]) == 0
    return out


def test_every_view_draws_from_the_file_alone(path, look):
    run = typical(path)
    two_sources(path)
    out = report(path, "lstm", "gan")
    path.unlink()
    tab = look(out.as_uri(), offline=True)
    ready(tab, 500)
    for panel in PANELS:
        assert colours(tab, panel) > 8, panel
    assert tab.inner_text("h1") == "lstm"
    assert f"loss {run.loss[-1]:.4g}"[:8] in reading(tab, "loss")
    assert "One step undoes many." in tab.inner_text("#panel-alerts")
    finite = run.norm[np.isfinite(run.norm)]
    tab.fill("#threshold-field", "1.0")
    tab.press("#threshold-field", "Enter")
    assert f"clipped {(finite > 1.0).sum()} of 498" in tab.inner_text("#threshold-said")
    tab.keyboard.press("Escape")
    tab.keyboard.press("j")
    until(tab, "() => document.querySelector('h1').textContent === 'gan'")
    tab.select_option("#source", "critic")
    until(tab, "() => document.querySelector('#panel-norm .readout').textContent.includes('norm 100')")


def test_what_a_report_carries_is_what_it_says(path, look):
    """All steps for the distribution, and one process."""
    two_ranks(path)
    tab = look(f"{report(path).as_uri()}#run=1&from=10&to=20&rank=1")
    ready(tab, 100)
    assert tab.locator("#all-steps").count() == 1
    assert "of all steps" in tab.inner_text("#panel-distribution")
    assert "of 100 steps" in tab.inner_text("#threshold-said")
    assert "2 processes, of which the first is shown" in tab.inner_text(".facts")
    assert tab.locator("#rank").count() == 0
    assert "norm 20" in reading(tab, "norm")


def test_names_that_lie_are_text(path, look):
    hostile(path)
    out = report(path)
    assert "<script>alert(" not in out.read_text()
    tab = look(out.as_uri())
    ready(tab, 30)
    assert tab.inner_text("h1") == HOSTILE
    assert tab.evaluate("document.querySelectorAll('#app img, #app svg, #app script').length") == 0
    assert tab.title() == f"{HOSTILE} · clipwise"


def test_names_that_lie_end_no_script(path):
    hostile(path)
    text = report(path).read_text()
    data = json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL).group(1))
    assert data["runs"][0]["name"] == HOSTILE
    assert data["runs"][0]["clip"] == "<script>alert(2)</script>"


def test_the_browser_is_told_to_refuse_all_but_these_parts(path):
    typical(path)
    text = report(path).read_text()
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]+)"', text).group(1)
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    for tag in ("script", "style"):
        parts = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        assert parts
        for part in parts:
            digest = base64.b64encode(hashlib.sha256(part.encode()).digest()).decode()
            assert f"'sha256-{digest}'" in policy
    assert "Permission is hereby granted" in text  # uPlot's licence goes with it
    assert not re.findall(r'(?:src|href)="(?!data:)', text)


def test_the_data_are_what_was_recorded(path):
    run = typical(path)
    text = report(path).read_text()
    data = json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL).group(1))
    line = data["series"]["1"][""]["clipwise/norm"]["line"]
    assert line["x"] == run.step.tolist()
    assert line["y"] == [float(f"{v:.7g}") if np.isfinite(v) else None for v in run.norm]


def test_modules_keep_to_one_form_of_import_and_export():
    for name, content in assets().items():
        if name.startswith("js/"):
            text = content.decode()
            assert len(IMPORT.findall(text)) == len(re.findall(r"^import ", text, re.MULTILINE)), name
            assert len(EXPORT.findall(text)) == len(re.findall(r"^export ", text, re.MULTILINE)), name
            for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "http"):
                assert word not in text, (name, word)
    script = bundle("report.js")
    assert not re.search(r"^(import|export) ", script, re.MULTILINE)
    assert "</script" not in script
    assert "<!--" not in script


def png_size(content):
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    return int.from_bytes(content[16:20], "big"), int.from_bytes(content[20:24], "big")


@pytest.mark.parametrize("make", [typical, two_sources, hostile, by_parts, held_by_turns])
def test_a_picture(path, make):
    pytest.importorskip("matplotlib")
    from matplotlib.image import imread

    make(path)
    recording = Recording(path)
    content = picture(collect(recording, [1]))
    recording.close()
    assert png_size(content) == (1950, 1560)
    pixels = np.ascontiguousarray(imread(io.BytesIO(content)) * 255, dtype=np.uint8).view(np.uint32)
    for y, x in np.ndindex(2, 2):  # something is drawn in each quarter
        part = pixels[y * 780 : (y + 1) * 780, x * 975 : (x + 1) * 975]
        assert len(np.unique(part)) > 20


def test_nothing_is_overwritten_unless_asked(path, capsys):
    typical(path)
    out, png = path.with_name("a.html"), path.with_name("a.png")
    png.write_text("mine")
    asked = ["report", "--db", str(path), "-o", str(out), "--png", str(png)]
    assert main(asked) == 2
    assert "a.png' already exists; --force overwrites it" in capsys.readouterr().err
    assert png.read_text() == "mine"
    assert not out.exists()
    pytest.importorskip("matplotlib")
    assert main([*asked, "--force"]) == 0
    assert png.read_bytes()[:4] == b"\x89PNG"
    assert sorted(p.name for p in path.parent.iterdir() if not p.name.startswith("runs.db")) == [
        "a.html",
        "a.png",
    ]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["lstn"], "no run 'lstn' in"),
        (["--db", "none.db"], "there is no recording 'none.db'"),
        (["-o", "."], "is a folder"),
        (["-o", "none/a.html"], "there is no folder"),
        (["-o", "a.html", "--png", "a.html"], "cannot both be 'a.html'"),
    ],
)
def test_mistakes_are_one_sentence(path, monkeypatch, capsys, arguments, says):
    typical(path)
    monkeypatch.chdir(path.parent)
    db = [] if "--db" in arguments else ["--db", str(path)]
    assert main(["report", *db, *arguments]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
    assert not path.with_name("a.html").exists()
    assert not path.with_name("report.html").exists()


def test_a_file_that_is_none(path, capsys):
    path.write_text("mine" * 999)
    assert main(["report", "--db", str(path)]) == 2
    assert "is not a recording" in capsys.readouterr().err
    assert not path.with_name("report.html").exists()


def test_the_dashboard_as_a_command(path):
    pytest.importorskip("starlette")
    command = [sys.executable, "-m", "clipwise", "dashboard", str(path), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            said = process.stdout.readline()
            assert re.fullmatch(r".*runs\.db: http://127\.0\.0\.1:\d+/  \(Ctrl-C ends\)\n", said)
        finally:
            process.send_signal(signal.SIGINT if os.name == "posix" else signal.SIGTERM)
        assert process.wait(timeout=30) == 0
        assert process.stderr.read() == ""


def test_mistakes_of_the_dashboard(capsys):
    pytest.importorskip("starlette")
    assert main(["dashboard", "--token", "short"]) == 2
    assert "16 to 256" in capsys.readouterr().err
    assert main(["dashboard", "--new-token", "--token-file", __file__]) == 2
    assert "give one" in capsys.readouterr().err
    assert main(["dashboard", "--token-file", __file__]) == 2  # with the rights of any file
    assert "can read" in capsys.readouterr().err or os.name != "posix"
    assert main(["dashboard", "--port", "99999"]) == 2
    assert "99999" in capsys.readouterr().err


def test_without_the_extra_the_sentence_says_how_to_get_it(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert main(["dashboard", "--port", "0"]) == 2
    assert (
        'needs uvicorn, which is not installed: pip install "clipwise[dashboard]"' in capsys.readouterr().err
    )
