"""The command: killed and gone on with, over two processes, recorded, and what it says to mistakes."""

import io
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from clipwise.cli import main
from clipwise.cli.lab_progress import Bars, Lines, shown_progress
from clipwise.lab.suite.catalog import named
from clipwise.lab.suite.cells import cells
from clipwise.lab.suite.store import Finished, SuiteStore
from clipwise.lab.suite.work import State, work
from clipwise.monitor import Store
from tests.depth import thorough

TASK = "temporal-order-50"
METHODS = "none,norm-0.25,tuned-rate"

KILLED = """
import os, signal, sys
from pathlib import Path
from clipwise.lab.suite.catalog import named
from clipwise.lab.suite.cells import cells
from clipwise.lab.suite.store import SuiteStore
from clipwise.lab.suite.work import work

class Killer:
    begun = 0
    def begin(self, cell, state):
        self.begun += 1
        if self.begun == 2:
            os.kill(os.getpid(), signal.SIGKILL)
    def end(self, cell, result, error, state):
        pass

out = Path(sys.argv[1])
wanted = cells(named([sys.argv[2]]), "tiny", methods=sys.argv[3].split(","))
work(SuiteStore(out / "lab.db"), wanted, out / "a.db", Killer())
"""


def lab(folder: Path, *words: str, methods: str = METHODS) -> int:
    place = ["--out", str(folder), "--db", str(folder / "a.db"), "--budget", "tiny", "--methods", methods]
    return main(["lab", *words, *place])


def finished(folder: Path) -> dict[str, Finished]:
    with SuiteStore(folder / "lab.db", write=False) as store:
        return {key.method: found for key, found in store.finished().items()}


def final(found: dict[str, Finished]) -> dict[str, tuple[float, ...]]:
    """Everything that does not hang on the time that it took."""
    return {
        name: (cell.result.figures.final, cell.result.figures.last_loss, *cell.result.tried)
        for name, cell in found.items()
        if cell.result is not None
    }


@thorough
def test_killed_it_goes_on_over_two_processes_to_the_same_numbers(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "killed"
    folder.mkdir()
    done = subprocess.run([sys.executable, "-c", KILLED, str(folder), TASK, METHODS], check=False)
    assert done.returncode == -9
    before = finished(folder)
    assert len(before) == 1
    assert lab(folder, "run", TASK, "--jobs", "2") == 0
    said = capfd.readouterr().err
    assert "1 of 3 runs are already finished" in said
    assert "[3/3]" in said
    after = finished(folder)
    assert set(after) == set(METHODS.split(","))
    assert all(after[name] == before[name] for name in before)  # not run again
    wanted = cells(named([TASK]), "tiny", methods=METHODS.split(","))
    with SuiteStore(tmp_path / "whole.db") as store:
        work(store, wanted, tmp_path / "whole-runs.db", Lines())
        assert final({key.method: found for key, found in store.finished().items()}) == final(after)
    with Store(folder / "a.db") as store:
        runs = [run for run in store.runs() if run.status == "finished"]
    # Two of one run each, and one of six rates: every cell was run by one process, once.
    assert len(runs) == 2 + 6
    assert len({json.dumps([run.facts["suite"], run.name]) for run in runs}) == 8
    assert {path.name for path in folder.iterdir()} >= {"lab-tiny.html", "lab-tiny.md"}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["run", "temporal-ordr-50"], "unknown task 'temporal-ordr-50'. Did you mean 'temporal-order-50'?"),
        (["run", TASK, "--methods", "norm-3"], "unknown method 'norm-3'. Did you mean"),
        (["run", "addition", "--budget", "small"], "nothing to run: none of these tasks has a size"),
        (["report"], "there is no store"),
        (["run", TASK, "--storage", "mysql://a:b@c/d"], "storage must be sqlite:///FILE or postgresql://"),
    ],
)
def test_a_mistake_is_one_sentence(
    words: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["lab", *words, "--out", str(tmp_path / "new")]) == 2
    said = capsys.readouterr().err
    assert said.startswith("Error: ")
    assert says in said
    assert said.count("\n") == 1
    assert not (tmp_path / "new").exists()


def test_a_place_that_cannot_be_written_is_said_before_anything_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("mine")
    assert main(["lab", "run", TASK, "--budget", "tiny", "--out", str(tmp_path / "file")]) == 2
    assert "is a file; give a folder" in capsys.readouterr().err
    (tmp_path / "lab.db").write_text("mine, and long enough to be taken for a file of something else " * 9)
    assert (
        main(["lab", "run", TASK, "--budget", "tiny", "--out", str(tmp_path), "--db", str(tmp_path / "r.db")])
        == 2
    )
    assert "is not a store of clipwise lab" in capsys.readouterr().err
    assert (tmp_path / "lab.db").read_text().startswith("mine")


def test_what_is_missing_fails_alone_and_with_an_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    assert lab(tmp_path, "run", "cartpole", TASK, "--jobs", "1", methods="none") == 1
    said = capsys.readouterr()
    assert (
        'the task cartpole needs gymnasium, which is not installed: pip install "clipwise[lab]"' in said.err
    )
    assert "1 run failed" in said.err
    assert "Failed: the task cartpole needs gymnasium" in (tmp_path / "lab-tiny.md").read_text()
    with SuiteStore(tmp_path / "lab.db") as store:  # a later call tries it again
        assert {cell.result is None for cell in store.finished().values()} == {True, False}


def test_on_a_terminal_there_are_bars_with_the_time_left_beneath_the_lines() -> None:
    screen = io.StringIO()
    state = State(2, 1, 10, 2.5 * 3600)
    (cell,) = cells(named([TASK]), "tiny", methods=["norm-1"])
    with shown_progress(lambda: state, Console(file=screen, force_terminal=True, width=120)) as shown:
        assert isinstance(shown, Bars)
        update = shown.begin(cell, state)
        assert update is not None
        update(3, 6, {"loss": 1.5})
        shown._progress.refresh()
        said = "import sys; print('[4/10] elsewhere: done', file=sys.stderr)"
        other = subprocess.Popen([sys.executable, "-c", said], stderr=subprocess.PIPE, text=True)
        shown.follow(other)
        other.wait()
        shown.end(cell, None, "no network", state)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue())
    assert re.search(r"all runs .* 3/10 about 2 h \d+ min left", text)
    assert re.search(rf"{re.escape(str(cell))} .* 3/6 +loss 1.5", text)
    lines = text.replace("\r", "\n").splitlines()  # each by itself, above the bars
    assert "[4/10] elsewhere: done" in lines
    assert any(line.startswith(f"[3/10] {cell}: failed: no network") for line in lines)
    with shown_progress(lambda: state, Console(file=screen)) as plain:  # no terminal
        assert type(plain) is Lines


def test_the_list_names_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lab", "list"]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in (TASK, "cartpole", "norm-0.25", "clip_by_norm(0.5)", "layer-norm"))
