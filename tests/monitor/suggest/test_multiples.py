"""Runs of one seed that sum what others average: said with the suggestion, in lists, of a comparison."""

import json

import pytest
import torch
from torch import nn

import clipwise
from clipwise.cli import main
from clipwise.dashboard.recording import Recording
from clipwise.monitor import Monitor, Store
from clipwise.monitor.suggest import suggest_run
from clipwise.monitor.suggest.multiples import Multiples


def train(path, name, *, parts=1, mean=True, seed=0, factor=1.0):
    """Some steps of Adam on micro-batches whose losses are added, or averaged."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 1))
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    with Monitor(path, run=name, rules=[]) as monitor:
        monitor.attach(clipwise.torch.attach(optimizer, clipwise.clip_by_global_norm(1e9), model=model))
        for _ in range(12):
            optimizer.zero_grad()
            for x in torch.randn(16, 5).chunk(parts):
                loss = model(x).sub(1.0).pow(2).mean() * factor / (parts if mean else 1)
                loss.backward()
            optimizer.step()


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"parts": 8, "mean": False}, "exactly 1/8 of those of run 'other', parameter by parameter"),
        ({"parts": 8}, None),
        ({"factor": 0.25}, "exactly 4 times those of run 'other', parameter by parameter, as a sum over 4"),
        ({"factor": 2.5}, None),
        ({"parts": 8, "mean": False, "seed": 1}, None),
    ],
    ids=["sum", "mean", "smaller", "no whole number", "another seed"],
)
def test_it_is_said_of_the_first_step(tmp_path, other, words):
    train(tmp_path / "runs.db", "other", **other)
    train(tmp_path / "runs.db", "this")
    with Store(tmp_path / "runs.db") as store:
        reasons = suggest_run(store, "this").reasons
    said = [reason for reason in reasons if "parameter by parameter" in reason]
    if words is None:
        assert said == []
    else:
        [reason] = said
        assert reason.startswith("At step 1 its gradients are")
        assert words in reason


def test_it_is_said_in_the_lists_of_runs(tmp_path, capsys, monkeypatch):
    """Of the later run; what was read once is not read again, and a run that has gone is not named."""
    monkeypatch.setenv("COLUMNS", "160")  # else cells are wrapped
    path = tmp_path / "runs.db"
    for name, options in (("mean", {}), ("again", {}), ("sum", {"parts": 8, "mean": False})):
        train(path, name, **options)
    assert main(["runs", "--db", str(path)]) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if "8 x " in line]
    assert len(rows) == 1
    assert "8 x 'again'" in rows[0]
    assert main(["runs", "--json", "--db", str(path)]) == 0
    said = [one["multiple"] for one in json.loads(capsys.readouterr().out)]
    assert said[1:] == [None, None]
    assert said[0].startswith("At step 1 its gradients are exactly 8 times those of run 'again'")
    recording = Recording(path)
    assert [one["multiple"] for one in recording.runs()] == [["8 x 'again'", said[0]], None, None]
    known = Multiples()
    with Store(path) as store:
        assert known.among(store)[3].other.name == "again"
        store.first_layers = None  # known by now
        assert known.among(store)[3].ratio == 8.0
    assert main(["runs", "delete", "again", "--yes", "--db", str(path)]) == 0
    assert recording.runs()[0]["multiple"][0] == "8 x 'mean'"
    recording.close()
