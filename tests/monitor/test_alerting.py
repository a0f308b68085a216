"""Rules at work in a training: what they say is recorded, and what they ask for is done."""

import math
import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
import torch

import clipwise
from clipwise.errors import ArgumentError, TrainingStopped
from clipwise.monitor import Monitor, MonitorWarning, Store
from clipwise.monitor.rules import (
    Finding,
    GradientNonfinite,
    GradientSpike,
    LossNonfinite,
    Rule,
    Watcher,
    default_rules,
)


@dataclass(frozen=True, kw_only=True)
class Large(Rule):
    """Speaks where a norm is above 50."""

    name: ClassVar[str] = "large"

    def watch(self, source=""):
        return LargeWatcher()


class LargeWatcher(Watcher):
    def judge(self, moment):
        norm = moment.values.get("clipwise/norm")
        return None if norm is None else norm > 50

    def finding(self):
        return Finding("The norm is large.", "It is a test.", "Nothing.")


def train(monitor, steps=12, large=(), bad=()):
    """Gradients of ones, now and then a hundred times as much; the weights after each step."""
    weight = torch.nn.Parameter(torch.zeros(4))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    clipper = monitor.attach(clipwise.torch.attach(optimizer, clipwise.clip_by_global_norm(math.inf)))
    for step in range(1, steps + 1):
        weight.grad = torch.full((4,), 100.0 if step in large else 1.0)
        clipper.observe(math.nan if step in bad else 1.0)
        optimizer.step()
        monitor.flush()
    return weight, clipper


def alerts(path):
    with Store(path) as store:
        return store.alerts(store.run().id), store.run()


def test_an_alert_is_recorded_said_and_handed_over(tmp_path):
    seen = []
    rules = [Large(actions=("warn", seen.append), cooldown=5)]
    with (
        Monitor(tmp_path / "runs.db", rules=rules) as monitor,
        pytest.warns(MonitorWarning, match=r"large \(warning\): The norm is large"),
    ):
        train(monitor, large=(3, 5))
    found, _ = alerts(tmp_path / "runs.db")
    assert [(alert.rule, alert.step) for alert in found] == [("large", 3)]
    assert seen == found


def test_no_rules_no_alerts(tmp_path):
    with Monitor(tmp_path / "runs.db", rules=[]) as monitor:
        train(monitor, bad=(3,))
    assert alerts(tmp_path / "runs.db")[0] == []


def test_the_rules_that_are_there_unless_others_are_given(tmp_path):
    with Monitor(tmp_path / "runs.db") as monitor, pytest.warns(MonitorWarning, match="loss is NaN"):
        train(monitor, bad=(3,))
    assert [alert.rule for alert in alerts(tmp_path / "runs.db")[0]] == ["loss_nonfinite"]


def test_a_rule_stops_the_training(tmp_path):
    with (
        pytest.raises(TrainingStopped, match=r"large \(warning\): The norm is large"),
        Monitor(tmp_path / "runs.db", rules=[Large(actions=("stop",))]) as monitor,
    ):
        train(monitor, large=(3,))
    found, run = alerts(tmp_path / "runs.db")
    assert (run.status, run.steps, len(found)) == ("stopped", 4, 1)


def test_a_rule_leaves_a_step_out(tmp_path):
    with Monitor(tmp_path / "runs.db", rules=[Large(actions=("skip",))]) as monitor:
        weight, clipper = train(monitor, steps=6, large=(2, 5))
    assert weight.tolist() == [-4.0] * 4  # four steps of six
    assert clipper.skipped_steps == 2
    with Store(tmp_path / "runs.db") as store:
        assert store.series(1, ["clipwise/skipped"])["clipwise/skipped"].values.tolist() == [0, 1, 0, 0, 1, 0]


def test_a_loss_of_nan_leaves_the_step_out(tmp_path):
    with Monitor(tmp_path / "runs.db", rules=[LossNonfinite(actions=("skip",))]) as monitor:
        weight, _ = train(monitor, steps=5, bad=(2,))
    assert weight.tolist() == [-4.0] * 4


def test_an_action_that_fails_ends_nothing(tmp_path):
    def broken(alert):
        raise RuntimeError("no such thing")

    with (
        pytest.warns(MonitorWarning, match=r"broken of the rule 'large' failed: RuntimeError: no such"),
        Monitor(tmp_path / "runs.db", rules=[Large(actions=(broken,))]) as monitor,
    ):
        train(monitor, large=(3,))
    assert len(alerts(tmp_path / "runs.db")[0]) == 1


def test_without_a_file_the_rules_act_all_the_same(tmp_path):
    seen = []
    place = tmp_path / "missing" / "runs.db"
    monitor = Monitor(place, rules=[Large(actions=(seen.append,), cooldown=0)])
    with pytest.warns(MonitorWarning, match="cannot be written"):
        train(monitor, large=(3, 6))
    assert [alert.step for alert in seen] == [3, 6]
    place.parent.mkdir()
    monitor.close()
    assert [alert.step for alert in seen] == [3, 6]
    assert alerts(place)[0] == seen


def test_processes_of_one_run_say_it_once(tmp_path, monkeypatch):
    monkeypatch.setenv("CLIPWISE_RUN", "both")
    seen = []
    for rank in range(2):
        monkeypatch.setenv("RANK", str(rank))
        rules = [Large(actions=(seen.append,), cooldown=5)]
        with Monitor(tmp_path / "runs.db", rules=rules) as monitor:
            train(monitor, large=(3, 11) if rank else (3,))
    assert [(alert.rank, alert.step) for alert in seen] == [(0, 3), (1, 11)]
    assert alerts(tmp_path / "runs.db")[0] == seen


def spiking(monitor, name, large, layers=()):
    """Norms of 1 and one of 100, of two layers, by name; recorded by hand."""
    for step in range(1, 61):
        big = 100.0 if step == large else 1.0
        found = report(norm=big) if not layers else layered(layers, [big, 0.5])
        monitor.record(found, step=step, name=name)


def layered(names, norms):
    norms = torch.tensor(norms)
    one = clipwise.ClipReport
    return one(
        norm=norms.max(),
        norm_after=1.0,
        threshold=1.0,
        clipped=1,
        clip_fraction=1.0,
        names=names,
        tensor_norms=norms,
    )


def test_each_source_spikes_in_layers_of_its_own(tmp_path):
    with Monitor(tmp_path / "runs.db", flush=60, rules=[GradientSpike(actions=())]) as monitor:
        spiking(monitor, "", 41, ("a", "b"))
        spiking(monitor, "critic", 41, ("c", "d"))
    seen = [alert.seen.rpartition("; ")[2] for alert in alerts(tmp_path / "runs.db")[0]]
    assert seen == ["the largest is that of a (100).", "the largest is that of c (100)."]


def test_processes_of_one_run_say_it_of_each_source(tmp_path, monkeypatch):
    monkeypatch.setenv("CLIPWISE_RUN", "both")
    for rank, (name, step) in enumerate([("generator", 41), ("critic", 43)]):
        monkeypatch.setenv("RANK", str(rank))
        with Monitor(tmp_path / "runs.db", rules=[GradientSpike(actions=())]) as monitor:
            spiking(monitor, "generator", 41)
            spiking(monitor, name, step) if rank else None
    found, _ = alerts(tmp_path / "runs.db")
    assert [(alert.source, alert.rank, alert.step) for alert in found] == [
        ("generator", 0, 41),
        ("critic", 1, 43),
    ]


TWO = """
import sys, torch, torch.distributed as dist, clipwise
from tests.monitor.test_alerting import Large
dist.init_process_group("gloo")
rank = dist.get_rank()
for action in ("stop", "skip"):
    monitor = clipwise.Monitor(f"{sys.argv[1]}/{action}.db", rules=[Large(actions=(action,))], flush=0.01)
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    clipper = monitor.attach(clipwise.torch.attach(optimizer, clipwise.clip_by_global_norm(1e9)))
    try:
        for step in range(1, 41):
            weight.grad = torch.tensor([100.0 if rank == 1 and step == 5 else 1.0])
            optimizer.step()
            if step == 20: monitor.flush()
    except clipwise.errors.TrainingStopped:
        pass
    print(rank, clipper.steps, clipper.skipped_steps)
    monitor.close()
"""


def test_processes_decide_together(tmp_path):
    """Only the second sees it; both stop at the same step, and both leave the same step out."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    environment = os.environ | {
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
    }
    both = [
        subprocess.Popen(
            [sys.executable, "-c", TWO, str(tmp_path)],
            env=environment | {"RANK": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        for rank in range(2)
    ]
    said = [one.communicate(timeout=120)[0].splitlines() for one in both]
    assert [one.returncode for one in both] == [0, 0]
    for action, zero, one in zip(("stop", "skip"), *said, strict=True):
        assert (zero[0], one[0]) == ("0", "1")
        assert zero[1:] == one[1:]
        steps, skipped = map(int, zero[1:].split())
        assert (steps == 40, skipped) == ((False, 0) if action == "stop" else (True, 1))


class Failing:
    def begin(self, run, facts, started=None):
        pass

    def write(self, rows, alerts=()):
        raise OSError("no space there")

    def close(self, status="finished"):
        raise AssertionError("it is left")


class Keeping:
    def __init__(self):
        self.heard = []

    def begin(self, run, facts, started=None):
        self.heard.append(run)

    def write(self, rows, alerts=()):
        self.heard += [alert.rule for alert in alerts]

    def close(self, status="finished"):
        self.heard.append(status)


def test_other_tools_get_the_same(tmp_path):
    keeping = Keeping()
    with (
        pytest.warns(MonitorWarning, match="Failing receives no more of run 'r'.*no space there"),
        Monitor(
            tmp_path / "runs.db", run="r", rules=[Large(actions=())], exporters=[Failing(), keeping]
        ) as monitor,
    ):
        train(monitor, large=(3,))
    assert keeping.heard == ["r", "large", "finished"]


def test_a_rule_that_notifies_needs_somebody_to_tell(tmp_path):
    with pytest.raises(ArgumentError, match="'gradient_nonfinite' sends notifications: give an address"):
        Monitor(tmp_path / "runs.db", rules=[GradientNonfinite(actions=("notify",))])


def test_whoever_is_named_is_told_of_warnings():
    told = [rule.name for rule in default_rules(notify=True) if "notify" in rule.actions]
    assert told == [rule.name for rule in default_rules() if rule.level != "info"]
    assert not any("notify" in rule.actions for rule in default_rules())


@dataclass(frozen=True, kw_only=True)
class Broken(Rule):
    """Raises at the third step."""

    name: ClassVar[str] = "broken"

    def watch(self, source=""):
        return BrokenWatcher()


class BrokenWatcher(LargeWatcher):
    def judge(self, moment):
        if moment.step == 3:
            raise ZeroDivisionError("of its own")
        return False


def test_a_rule_that_fails_ends_neither_the_others_nor_the_training(tmp_path):
    rules = [Broken(actions=("skip",)), Large(actions=(), cooldown=0)]
    with (
        pytest.warns(
            MonitorWarning, match="'broken' failed and is switched off: ZeroDivisionError: of its own"
        ),
        Monitor(tmp_path / "runs.db", rules=rules) as monitor,
    ):
        weight, _ = train(monitor, steps=6, large=(2, 3, 5))
    assert [alert.step for alert in alerts(tmp_path / "runs.db")[0]] == [2, 3, 5]
    assert weight.tolist() == [-303.0] * 4


def test_a_stop_that_the_script_takes_is_no_failure_and_no_ordinary_end(tmp_path):
    monitor = Monitor(tmp_path / "runs.db", rules=[Large(actions=("stop",))])
    monitor.record(report(norm=100.0))
    monitor.flush()
    with pytest.raises(TrainingStopped):
        monitor.record(report(norm=1.0))
    monitor.close()
    _, run = alerts(tmp_path / "runs.db")
    assert (run.status, run.steps) == ("stopped", 2)  # the step that heard of it is recorded, too


def report(norm):
    return clipwise.ClipReport(norm=norm, norm_after=norm, threshold=1.0, clipped=False, clip_fraction=0.0)


def test_one_process_of_a_run_feeds_other_tools(tmp_path, monkeypatch):
    heard = []
    for rank in range(2):
        monkeypatch.setenv("RANK", str(rank))
        keeping = Keeping()
        with Monitor(tmp_path / "runs.db", run="r", rules=[], exporters=[keeping]) as monitor:
            monitor.log(step=1, loss=1.0)
        heard.append(keeping.heard)
    assert heard == [["r", "finished"], []]
