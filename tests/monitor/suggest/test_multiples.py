"""Runs of one seed that sum what others average: said with the suggestion."""

import pytest
import torch
from torch import nn

import clipwise
from clipwise.monitor import Monitor, Store
from clipwise.monitor.suggest import suggest_run


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
