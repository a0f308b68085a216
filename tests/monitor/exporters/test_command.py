"""``clipwise export``: what it says, and that a mistake is one sentence and exit code 2."""

import sys

import click
import pytest

from clipwise.cli import main
from clipwise.cli.export import export
from clipwise.monitor.exporters import TOOLS

from .conftest import rows


@pytest.fixture
def command(monkeypatch, path, tmp_path, capsys):
    """Runs it in the folder of the recording, as the command line does; returns exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    group = click.Group("clipwise", commands={"export": export})
    monkeypatch.setattr("clipwise.cli.commands.cli", group)

    def run(*words):
        code = main(["export", *map(str, words)])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def test_csv_of_the_newest_run_and_of_one_by_name(command, tmp_path):
    assert command("--to", "csv") == (0, "run 'plain': 1 step, 1 series\nin plain.csv\n", "")
    code, out, _ = command("lstm: <b>/1", "--to", "csv", "--out", "there/x.csv")
    assert (code, out.splitlines()[0]) == (
        0,
        "run 'lstm: <b>/1': 5 steps, 3 series, norms of 2 parameters, 2 alerts",
    )
    assert (tmp_path / "there" / "x.layers.csv").exists()


def test_without_a_terminal_lines_say_how_far_it_is(command, monkeypatch):
    monkeypatch.setattr("clipwise.cli.export.EVERY", 0.0)
    assert command("--to", "csv")[2] == "100% is exported\n"


def test_every_tool_is_called_with_its_place(command, tmp_path):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    code, out, _ = command("1", "--to", "tensorboard", "--out", "logs")
    assert code == 0
    assert out.splitlines()[1:] == ["in logs/lstm_b_1", "next: tensorboard --logdir logs"]
    assert command("1", "--to", "tensorboard", "--out", "logs", "--force")[0] == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--to", "csv", "--db", "none.db"], "none.db"),
        (["nobody", "--to", "csv"], "no run 'nobody'"),
        (["--to", "csv", "--project", "p"], "--project is for wandb, mlflow and trackio, not for csv"),
        (["--to", "wandb", "--force"], "--force has nothing to replace"),
        (["--to", "csv", "--out", "x.parquet"], "must end in .csv"),
        (["--to", "csv", "--db", "other.txt"], "other.txt"),
        (["--to", "csv", "--out", "other.txt/x.csv"], "cannot be written"),
    ],
)
def test_a_mistake_is_one_sentence(command, tmp_path, words, said):
    (tmp_path / "other.txt").write_text("not a recording")
    before = sorted(path.name for path in tmp_path.iterdir() if ".db" not in path.name)
    code, out, err = command(*words)
    assert (code, out) == (2, "")
    assert said in err
    assert len(err.splitlines()) == 1
    assert before == sorted(path.name for path in tmp_path.iterdir() if ".db" not in path.name)


def test_nothing_is_overwritten_without_force(command, tmp_path):
    (tmp_path / "plain.csv").write_text("mine")
    code, _, err = command("--to", "csv")
    assert (code, (tmp_path / "plain.csv").read_text()) == (2, "mine")
    assert "'plain.csv' already exists" in err
    assert command("--to", "csv", "--force")[0] == 0


@pytest.mark.parametrize("tool", ["tensorboard", "wandb", "mlflow", "trackio", "parquet"])
def test_a_tool_that_is_not_installed(command, monkeypatch, tool):
    for name in ("tensorboard", "wandb", "mlflow", "trackio", "polars", "pyarrow"):
        for loaded in [one for one in sys.modules if one.partition(".")[0] == name]:
            monkeypatch.delitem(sys.modules, loaded)
        monkeypatch.setitem(sys.modules, name, None)
    code, out, err = command("--to", tool)
    assert (code, out) == (2, "")
    assert f'pip install "clipwise[{tool}]"' in err


def test_any_exporter_is_one():
    from clipwise.monitor import exporters

    class Mine:
        def begin(self, run, facts, started=None): ...
        def write(self, moments, alerts=()): ...
        def close(self, status="finished"): ...

    assert isinstance(Mine(), exporters.Exporter)
    assert isinstance(exporters.CSV(), exporters.Exporter)
    assert not isinstance(rows, exporters.Exporter)


@pytest.mark.parametrize("to", ["tensorboard", "parquet", "csv"])
def test_an_export_that_fails_is_a_sentence_and_can_be_tried_again(command, tmp_path, monkeypatch, to):
    polars = pytest.importorskip("polars")
    tool = TOOLS[to]

    def full(*args, **kwargs):
        raise polars.exceptions.ComputeError("No space left on device")

    def fails(self, moments, alerts=()):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as disk:
        if to == "parquet":
            disk.setattr(polars.DataFrame, "write_parquet", full)
        else:
            disk.setattr(tool, "write", fails)
        code, _, err = command("--to", to, "--out", tmp_path / "out" / "here")
        assert code == 2
        assert "the export cannot be written" in err
        assert "No space left on device" in err
    assert not [one for one in (tmp_path / "out").rglob("*") if one.is_file()]
    assert command("--to", to, "--out", tmp_path / "out" / "here")[0] == 0
