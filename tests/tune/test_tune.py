"""The search: what it tries, what it goes on with, what it says; real trainings of a moment."""

import json
import math
import subprocess
import sys
import textwrap
import time

import pytest

from clipwise.cli import main
from clipwise.clip import clip_by_global_norm
from clipwise.config import parse
from clipwise.errors import ArgumentError, StoreError
from clipwise.monitor import Monitor
from clipwise.monitor.store import Store
from clipwise.tune.of_script import ScriptObjective
from clipwise.tune.result import _apart, configuration, picture, sentences
from clipwise.tune.space import RANGES, USUAL, Space, candidate
from clipwise.tune.study import Pruned, Search, Trial, TrialFailed, helpers
from tests.depth import THOROUGH, thorough
from tests.servers import postgresql

__all__ = ["postgresql"]

ABOUT = {"target": "a bowl"}


def bowl(chosen, number, report):
    """Least at a global norm of 0.3; everything else is worse than any threshold."""
    if chosen.method != "clip_by_global_norm":
        return 100.0
    return 1.0 + math.log10(chosen.number / 0.3) ** 2


def search(folder, **options):
    given = {"lower_is_better": True, "about": ABOUT} | options
    space = given.pop("space", Space(("none", "auto", "clip_by_global_norm")))
    return Search(f"sqlite:///{folder / 'tune.db'}", "bowl", space, **given)


def test_the_search_finds_the_bottom_after_the_usual_three(tmp_path):
    found = search(tmp_path)
    told = []
    found.run(bowl, 18, told.append)
    trials = found.trials()
    assert [one.chosen.clip for one in trials[:3]] == ["none", "auto()", "clip_by_global_norm(1)"]
    assert [one.number for one in told] == [one.number for one in trials] == list(range(18))
    assert {one.chosen.method for one in trials[3:]} == {"clip_by_global_norm"}  # the others stay the same
    best = found.best()
    assert best.value == min(one.value for one in trials)
    assert best.value < 1.1  # within a factor of 2 of the bottom; 15 points over four decades
    assert best.chosen.clip == f"clip_by_global_norm({best.chosen.number:g})"


def test_more_may_be_better(tmp_path):
    found = search(tmp_path, lower_is_better=False)
    found.run(lambda *given: -bowl(*given), 6)
    assert found.best().value == max(one.value for one in found.trials())


def test_the_same_search_goes_on_and_another_one_is_refused(tmp_path):
    search(tmp_path).run(bowl, 3)
    again = search(tmp_path)
    again.run(bowl, 5)
    assert again.count() == 5
    again.run(bowl, 5)
    assert again.count() == 5
    with pytest.raises(ArgumentError, match=r"target 'a bowl', and this is 'another'"):
        search(tmp_path, about={"target": "another"})


def test_an_interrupted_trial_is_tried_again(tmp_path):
    def interrupted(chosen, number, report):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search(tmp_path).run(interrupted, 3)
    again = search(tmp_path)
    again.run(bowl, 3)
    first = {"none", "auto()", "clip_by_global_norm(1)"}
    assert {one.chosen.clip for one in again.trials()} == first


def test_hopeless_trials_end_early_and_failed_ones_do_not_count(tmp_path):
    space = Space(("clip_by_global_norm",))
    found = search(tmp_path, space=space)

    def objective(chosen, number, report):
        if number == 2:
            raise TrialFailed("the disk is full")
        value = bowl(chosen, number, report)
        for step in range(1, 4):
            report(step, 1e9 if number > 7 else value)
        return value

    found.run(objective, 10)
    states = [one.state for one in found.trials()]
    assert len(states) == 10
    assert states[-3:] == ["pruned"] * 3
    assert [one.number for one in found.trials()][:3] == [0, 1, 3]


def test_trials_that_all_fail_end_the_search_with_the_reason(tmp_path):
    def objective(chosen, number, report):
        raise TrialFailed("no such file")

    with pytest.raises(TrialFailed, match="the first 3 trials failed: no such file"):
        search(tmp_path).run(objective, 10)


def test_an_objective_may_end_a_trial_itself(tmp_path):
    def objective(chosen, number, report):
        raise Pruned

    found = search(tmp_path)
    found.run(objective, 1)
    assert [one.state for one in found.trials()] == ["pruned"]
    assert found.best() is None


def test_every_method_is_a_clip_over_its_range():
    for method, ends in RANGES.items():
        for number in ends or (None,):
            clip = parse(candidate(method, number).clip)
            assert (clip is None) == (method == "none")
    assert parse(candidate("clip_by_global_norm", 0.12345).clip) == clip_by_global_norm(0.123)
    assert set(USUAL) <= set(RANGES)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Space(("clip_by_globalnorm",)), "unknown method 'clip_by_globalnorm'. Did you mean"),
        (lambda: Space(()), "at least one method"),
        (lambda: Space(rates=(0.1, 0.01)), "the first must be below the second, got 0.1 and 0.01"),
        (lambda: Space(rates=(0.0, 0.01)), "rate must be above 0"),
    ],
)
def test_what_is_refused(make, said):
    with pytest.raises(ArgumentError, match=said):
        make()


@pytest.mark.parametrize("storage", ["bogus://x", "sqlite:////nowhere/at/all/tune.db"])
def test_a_storage_that_cannot_be_used(storage):
    with pytest.raises(StoreError, match="cannot be used"):
        Search(storage, "x", Space(), lower_is_better=True, about={})


def test_what_is_said_and_drawn():
    trials = [
        Trial(0, candidate("none", None), math.inf, "complete"),
        Trial(1, candidate("auto", None), 2.1, "complete"),
        Trial(2, candidate("clip_by_global_norm", 0.5, 0.01), 2.0, "complete"),
        Trial(3, candidate("clip_by_global_norm", 9.0), None, "pruned"),
    ]
    assert sentences(trials, trials[2], "loss", True) == [
        "Best: clip_by_global_norm(0.5) at a learning rate of 0.01, loss 2 (trial 2).",
        "auto() reached 2.1, 5 % worse.",
        "no clipping reached ∞, it diverged.",
        "1 of 4 trials was stopped early.",
    ]
    found = configuration(trials[2])
    assert parse({"gradient_clipping": found["gradient_clipping"]}) == clip_by_global_norm(0.5)
    assert found["learning_rate"] == 0.01
    assert configuration(trials[0]) == {"gradient_clipping": None}
    assert picture(trials, "a", "loss", True).startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("value", "best", "said"),
    [
        (3.0, 1.0, "3 times that"),
        (-3.0, -1.0, "3 times that"),  # where more is better
        (-0.5, 0.5, "1 away from it"),
        (3.0, -1.0, "4 away from it"),
        (0.0, 3.0, "3 away from it"),
        (0.1, 0.9, "89 % worse"),
        (-math.inf, 0.9, "it diverged"),
    ],
)
def test_how_far_another_trial_is_from_the_best(value, best, said):
    assert _apart(value, best) == said


def test_a_configuration(tmp_path, monkeypatch, capsys):
    """The recording has a run a trial; in `make test-all` two processes share the storage."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "words.txt").write_text("the quick brown fox jumps over the lazy dog. " * 60)
    config = {
        "model_type": "GRU",
        "task": "Language_Modeling",
        "model_parameters": {"hidden_size": 8},
        "data": {"path": "words.txt"},
        "training_parameters": {"steps": 6, "batch_size": 4, "sequence_length": 8},
    }
    (tmp_path / "tiny.json").write_text(json.dumps(config))
    words = ["tune", "tiny.json", "--rate", "1e-3", "1e-2", "--out", "found"]
    assert main([*words, "--trials", "2"]) == 0
    if THOROUGH:
        assert main([*words, "--trials", "4", "--jobs", "2"]) == 0
    said = capsys.readouterr().out
    found = json.loads((tmp_path / "found" / "tune.json").read_text())
    assert json.dumps(found, indent=2) in said
    assert "Best: " in said
    assert 1e-3 <= found["learning_rate"] <= 1e-2
    assert (tmp_path / "found" / "tune.png").exists()
    with Store("clipwise.db") as store:
        runs = store.runs()
    assert len(runs) >= (4 if THOROUGH else 2)
    assert {"no clipping", "auto()"} <= {
        run.name.partition(",")[0].replace("none", "no clipping") for run in runs
    }


@thorough
def test_a_script(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").write_text(
        textwrap.dedent("""
            import sys, torch
            torch.manual_seed(0)
            weight = torch.nn.Parameter(torch.ones(4))
            optimizer = torch.optim.SGD([weight], lr=float(sys.argv[1]))
            for _ in range(5):
                optimizer.zero_grad(); loss = (weight**2).sum(); loss.backward(); optimizer.step()
            print("val_loss:", loss.item())
        """)
    )
    words = ["tune", "--methods", "none,clip_by_global_norm", "--rate", "0.01", "0.02", "--trials", "2"]
    script = [sys.executable, "train.py", "{rate}"]
    assert main([*words, "--metric", "val_loss: ([-+.e0-9]+)", "--", *script]) == 0
    said = capsys.readouterr()
    assert "2 of 2: clip_by_global_norm(1), rate 0.01" in said.err
    assert "val_loss" in said.out
    with Store("clipwise.db") as store:
        clips = [run.clip for run in store.runs()]
    assert sorted(map(str, clips)) == ["None", "clip_by_global_norm(1.0)"]
    objective = ScriptObjective(
        [sys.executable, "-c", "print(1)"], "nothing: (.*)", tmp_path / "c.db", tmp_path
    )
    with pytest.raises(TrialFailed, match="matches the metric 'nothing"):
        objective(candidate("none", None), 0, lambda step, value: None)
    with pytest.raises(ArgumentError, match="is not a regular expression"):
        ScriptObjective(script, "loss(", tmp_path / "c.db", tmp_path)
    with pytest.raises(ArgumentError, match="must have one group"):
        ScriptObjective(script, "loss: .*", tmp_path / "c.db", tmp_path)
    assert main(["tune", "--rate", "0.1", "1", "--", "train.py", ".1"]) == 2
    assert "{rate} in the arguments of the script go together" in capsys.readouterr().err


def test_a_script_that_is_hopeless_is_ended_and_keeps_what_it_has(tmp_path, monkeypatch):
    (tmp_path / "train.py").write_text("print('loss: 1\\nloss: 2', flush=True); import time; time.sleep(600)")
    monkeypatch.setattr("clipwise.tune.of_script.LOOK", 0.1)
    told = {}

    def report(place, value):
        told[place] = value
        if place == 1:
            raise Pruned

    objective = ScriptObjective(
        [sys.executable, str(tmp_path / "train.py")], "loss: (.+)", tmp_path / "runs.db", tmp_path
    )
    with pytest.raises(Pruned):
        objective(candidate("none", None), 0, report)
    assert told == {0: 1.0, 1: 2.0}
    assert "KeyboardInterrupt" in (tmp_path / "trial-0.log").read_text()


def test_a_recorded_series_is_compared_at_doubling_steps(tmp_path):
    with Monitor(tmp_path / "runs.db", run="trial 0: none", rules=()) as monitor:
        for step in range(1, 100):
            monitor.log(step=step, loss=float(step))
    objective = ScriptObjective(["x"], "loss", tmp_path / "runs.db", tmp_path)
    assert objective._on_the_way("trial 0: none", tmp_path / "x") == [31.0, 61.5]  # of 30..32, of 59..64
    assert objective._on_the_way("trial 1: none", tmp_path / "x") == []
    # The trial of a later search has the same name, and has not recorded anything yet.
    before = objective._newest()
    assert objective._on_the_way("trial 0: none", tmp_path / "x", before) == []
    with pytest.raises(TrialFailed, match="recorded no step"):
        objective._recorded("trial 0: none", before)
    with Monitor(tmp_path / "runs.db", run="trial 0: none", rules=()) as monitor:
        monitor.log(step=1, loss=7.0)
    assert objective._recorded("trial 0: none", before) == 7.0


@pytest.mark.parametrize("lower_is_better", [True, False])
def test_a_script_that_diverged_is_the_worst_trial(tmp_path, lower_is_better):
    output, worst = tmp_path / "x.log", math.inf if lower_is_better else -math.inf
    output.write_text("acc: 0.5\nacc: inf\nacc: -inf\n")
    objective = ScriptObjective(
        ["x"], r"acc: (\S+)", tmp_path / "runs.db", tmp_path, lower_is_better=lower_is_better
    )
    assert objective._on_the_way("x", output) == [0.5, worst, worst]
    for last in ("nan", "inf", "-inf"):
        assert objective._printed(f"acc: 0.5\nacc: {last}\n", output) == worst
    with Monitor(tmp_path / "runs.db", run="x", rules=()) as monitor:
        monitor.log(step=1, loss=math.nan)
    objective = ScriptObjective(
        ["x"], "loss", tmp_path / "runs.db", tmp_path, lower_is_better=lower_is_better
    )
    assert objective._recorded("x") == worst


SLEEP = [sys.executable, "-S", "-c", "import time; time.sleep(60)"]


def test_a_trial_ends_where_its_search_cannot_go_on(tmp_path, monkeypatch):
    monkeypatch.setattr("clipwise.tune.of_script.LOOK", 0.05)
    objective = ScriptObjective(["x"], "loss", tmp_path / "runs.db", tmp_path)

    def report(place, value):
        raise StoreError("the storage is locked")

    with subprocess.Popen(SLEEP) as child:
        with pytest.raises(StoreError):
            objective._watched(child, lambda: [1.0], report)
        assert child.returncode not in (None, 0)


def test_further_processes_end_where_the_search_cannot_go_on(tmp_path, monkeypatch):
    started = []
    popen = subprocess.Popen

    def kept(command, **options):
        started.append(popen(SLEEP, **options))
        return started[-1]

    monkeypatch.setattr("clipwise.tune.study.subprocess.Popen", kept)
    with pytest.raises(StoreError), helpers(["x.json"], 3):
        raise StoreError("the storage is locked")
    assert len(started) == 2
    assert all(child.returncode not in (None, 0) for child in started)


def test_a_driver_that_is_missing_is_named(tmp_path):
    with pytest.raises(StoreError, match=r"'postgresql\+pg8000://...' needs a driver: pip install 'pg8000'"):
        Search("postgresql+pg8000://a:secret@h/x", "x", Space(), lower_is_better=True, about={})


@pytest.mark.skipif(not THOROUGH, reason="starts four processes: in make test-all")
def test_processes_that_begin_one_search_at_once(tmp_path):
    code = """
import sys, time
from clipwise.tune.space import Space
from clipwise.tune.study import Search
time.sleep(max(0.0, float(sys.argv[2]) - time.time()))
space = Space(("none", "auto", "clip_by_global_norm"))
found = Search(sys.argv[1], "x", space, lower_is_better=True, about={"target": "a bowl"})
found.run(lambda chosen, number, report: 1.0, 12)
print([one.chosen.method for one in found.trials()].count("none"))
"""
    words = [sys.executable, "-c", code, f"sqlite:///{tmp_path / 'tune.db'}", str(time.time() + 6.0)]
    processes = [subprocess.Popen(words, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    said = [process.communicate()[0].strip() for process in processes]
    assert all(process.returncode == 0 for process in processes)
    assert all(one in {"1", "2"} for one in said)  # SQLite may give one trial to two of them


@pytest.mark.skipif(not THOROUGH, reason="starts a server: in make test-all")
def test_a_postgresql_server(postgresql, tmp_path):
    def opened():
        space = Space(("none", "auto", "clip_by_global_norm"))
        return Search(postgresql, "bowl", space, lower_is_better=True, about=ABOUT)

    one, other = opened(), opened()
    one.run(bowl, 4)
    other.run(bowl, 8)
    assert one.count() == other.count() == 8
    assert one.best() == other.best()
    with pytest.raises(StoreError, match=r"'postgresql://...' cannot be used: .*does not exist"):
        Search(postgresql + "s", "bowl", Space(), lower_is_better=True, about=ABOUT)
