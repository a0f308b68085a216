"""PyTorch scripts under ``clipwise observe``: what they compute, to the bit, and what is recorded of it."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from clipwise.monitor import Store
from clipwise.monitor.suggest import suggest_run
from tests.depth import thorough
from tests.monitor.observe.running import SCRIPTS, observed, run

CASES = (
    *(
        "sgd",
        "sgd_fused",
        "adam_each",
        "adamw_loop",
        "adamw_fused",
        "accumulated",
        "clipped",
        "late",
        "embedding",
    ),
    *("lbfgs", "scaled", "scaled_fused", "netD", "netG", "loaded", "odd", "own", "traced"),
    *("thread0", "thread3"),
)


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """The same trainings without and with; the recording."""
    folder = tmp_path_factory.mktemp("optimizers")
    script = SCRIPTS / "optimizers.py"
    plain = run(sys.executable, script, folder / "plain.json")
    assert plain.returncode == 0, plain.stderr
    seen = observed("--db", folder / "a.db", "--", sys.executable, script, folder / "seen.json")
    assert seen.returncode == 0, seen.stderr
    assert seen.stdout == plain.stdout
    assert "not recorded" not in seen.stderr
    with Store(folder / "a.db") as store:
        yield (
            json.loads((folder / "plain.json").read_text()),
            json.loads((folder / "seen.json").read_text()),
            store,
        )


def test_nothing_is_changed(both):
    plain, seen, _ = both
    assert set(CASES) < plain.keys()
    assert seen == plain  # parameters, what the gradients were, and the state of the random numbers


@pytest.mark.parametrize("case", CASES)
def test_norms_and_losses_are_those_of_the_script(both, case):
    plain, _, store = both
    found = store.series(store.run().id, ["clipwise/norm", "loss"], case)
    norms = found["clipwise/norm"]
    assert norms.steps.tolist() == list(range(1, len(plain[case]["norms"]) + 1))
    np.testing.assert_allclose(norms.values, plain[case]["norms"], rtol=2e-6)
    losses = found.get("loss")
    if plain[case]["losses"]:
        assert losses.steps.tolist() == norms.steps.tolist()
        np.testing.assert_allclose(losses.values, plain[case]["losses"], rtol=1e-6)
    else:
        assert losses is None


def test_any_number_one_after_the_other(both):
    plain, _, store = both
    run_ = store.run().id
    first = {
        round(float(store.series(run_, ["clipwise/norm"], name)["clipwise/norm"].values[0]), 6)
        for name in store.sources(run_)
    }
    assert {round(norm, 6) for norm in plain["many"]["norms"]} <= first


def test_the_run_is_one_and_has_ended(both):
    _, _, store = both
    assert len(store.runs()) == 1  # the loader's workers have left nothing
    run = store.run()
    assert (run.status, run.ranks) == ("finished", (0,))
    assert "optimizers.py" in run.command


def test_own_clipping_is_told_from_before_it(both):
    plain, _, store = both
    names = [f"clipwise/{name}" for name in ("norm_after", "threshold", "clip_fraction")]
    found = store.series(store.run().id, names, "clipped")
    after, threshold, fraction = (found[name].values for name in names)
    norms = np.array(plain["clipped"]["norms"])
    assert (norms > 0.25).any()
    np.testing.assert_allclose(after, np.minimum(norms, norms * 0.25 / (norms + 1e-6)), rtol=1e-5)
    assert (threshold == 0.25).all()
    assert fraction.tolist() == (norms > 0.25).astype(float).tolist()


def test_own_clipping_after_the_step_is_none_of_it(both):
    plain, _, store = both
    found = store.series(store.run().id, ["clipwise/norm_after", "clipwise/clip_fraction"], "late")
    np.testing.assert_allclose(found["clipwise/norm_after"].values, plain["late"]["norms"], rtol=2e-6)
    assert not found["clipwise/clip_fraction"].values.any()
    assert max(plain["late"]["norms"]) > 0.25


def test_own_clipping_of_another_order_is_of_that_order(tmp_path):
    script = SCRIPTS / "simple.py"
    done = observed(
        "--db", tmp_path / "a.db", "--layers-every", "1", "--", sys.executable, script, "largest", "leave"
    )
    assert done.returncode == 0, done.stderr
    assert "12 steps, finished" in done.stderr
    with Store(tmp_path / "a.db") as store:
        run_ = store.run()
        assert run_.clip == "clip_by_global_norm(0.001, norm=inf)"
        found, layers = store.series(run_.id, ["clipwise/norm", "clipwise/norm_after"]), store.layers(run_.id)
        norm, after = (found[f"clipwise/{name}"].values for name in ("norm", "norm_after"))
        np.testing.assert_allclose(layers.norms.max(axis=1), norm, rtol=1e-5)
        np.testing.assert_allclose(after, norm * 1e-3 / (norm + 1e-6), rtol=1e-5)
        assert (norm > 1e-3).all()
        assert suggest_run(store, run_).clip.norm == np.inf
        assert "clip_acts_on_nothing" not in {alert.rule for alert in store.alerts(run_.id)}


def test_parameters_have_the_names_of_their_modules(tmp_path):
    done = observed(
        *("--db", tmp_path / "a.db", "--layers-every", "3", "--run", "tiny", "--"),
        *(sys.executable, SCRIPTS / "simple.py", "twice", "fail", "early"),
    )
    assert done.returncode == 1
    assert "out of luck" in done.stderr
    assert "clipwise suggest tiny --db" in done.stderr
    said = " ".join(done.stderr.split())
    assert "warning: clip_acts_on_nothing: The script called torch's clip functions 10 times" in said
    with Store(tmp_path / "a.db") as store:
        first, second = store.run("tiny"), store.run("tiny-2")  # a training of its own in a child process
        assert (first.steps, first.status, first.clip) == (12, "failed", None)
        assert "out of luck" in first.note
        assert (second.steps, second.status) == (7, "finished")
        layers = store.layers(first.id)
        assert layers.steps.tolist() == [1, 3, 6, 9, 12]
        expected = [f"rnn.{kind}_{to}_l0" for kind in ("weight", "bias") for to in ("ih", "hh")]
        assert sorted(layers.names) == sorted([*expected, "head.weight", "head.bias"])
        norm = store.series(first.id, ["clipwise/norm"])["clipwise/norm"].values
        np.testing.assert_allclose(np.sqrt((layers.norms[1:] ** 2).sum(axis=1)), norm[2::3], rtol=1e-6)


def test_a_clip_from_outside_is_the_one_attached_inside(tmp_path):
    script = SCRIPTS / "simple.py"
    inside = run(sys.executable, script, "attach")
    outside = observed(
        *("--db", tmp_path / "a.db", "--clip", "clip_by_global_norm(0.05)", "--every", 2),
        *("--layers-every", 0, "--", sys.executable, script),
    )
    assert outside.stdout == inside.stdout
    with Store(tmp_path / "a.db") as store:
        run_ = store.run()
        assert run_.clip == "clip_by_global_norm(0.05)"
        after = store.series(run_.id, ["clipwise/norm_after"])["clipwise/norm_after"]
        assert after.steps.tolist() == [2, 4, 6, 8, 10, 12]
        assert (after.values <= 0.05 * (1 + 1e-6)).all()
        assert "loss" in store.names(run_.id)
    # The script's own clip goes first.
    both = observed(
        "--db", tmp_path / "b.db", "--clip", "clip_by_value(1e-9)", "--", sys.executable, script, "attach"
    )
    assert both.stdout == inside.stdout
    assert "--clip is not used" in both.stderr


def test_what_observing_lacks_is_said_and_the_script_runs(tmp_path):
    done = observed("--db", tmp_path / "a.db", "--", sys.executable, SCRIPTS / "simple.py", "without")
    assert done.returncode == 0
    assert len(done.stdout) == 65  # the digest
    assert "this Python lacks array_api_compat" in done.stderr
    assert not (tmp_path / "a.db").exists()


@thorough
def test_two_ranks_are_one_run(tmp_path):
    words = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port"]
    plain = run(*words, "29641", SCRIPTS / "two_ranks.py")
    assert plain.returncode == 0, plain.stderr
    done = observed("--db", tmp_path / "a.db", "--", *words, "29642", SCRIPTS / "two_ranks.py")
    assert done.returncode == 0, done.stderr
    digests = [sorted(x for x in d.stdout.splitlines() if x.startswith("digest")) for d in (plain, done)]
    assert digests[0] == digests[1]
    assert len(digests[0]) == 2
    assert len(set(digests[0])) == 1
    with Store(tmp_path / "a.db") as store:
        assert [run_.ranks for run_ in store.runs()] == [(0, 1)]
        run_ = store.run()
        assert run_.steps == 5
        norms = [
            store.series(run_.id, ["clipwise/norm"], rank=rank)["clipwise/norm"].values for rank in (0, 1)
        ]
        assert norms[0].tolist() == norms[1].tolist()  # of the mean gradient
        losses = [store.series(run_.id, ["loss"], rank=rank)["loss"].values for rank in (0, 1)]
        assert losses[0].tolist() != losses[1].tolist()  # each of its own batch
        assert set(store.layers(run_.id).names) <= {"0.weight", "0.bias", "2.weight", "2.bias"}


@thorough
def test_shards_are_recorded_and_clipped_as_one_process(tmp_path):
    def weights(*words):
        done = run(*words) if "--db" not in words else observed(*words)
        assert done.returncode == 0, done.stderr
        assert "not measured" not in done.stderr
        return json.loads(next(x for x in done.stdout.splitlines() if x.startswith("[[")))

    script = SCRIPTS / "sharded_ranks.py"
    ranks = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port"]
    plain = weights(*ranks, "29643", script)
    assert weights("--db", tmp_path / "norms.db", "--", *ranks, "29644", script) == plain
    clip = ["--clip", "clip_by_global_norm(0.2)"]
    both = weights("--db", tmp_path / "both.db", *clip, "--", *ranks, "29645", script)
    alone = weights("--db", tmp_path / "alone.db", *clip, "--", script)
    np.testing.assert_allclose(np.concatenate(both), np.concatenate(alone), rtol=1e-6, atol=1e-7)
    assert np.abs(np.concatenate(both) - np.concatenate(plain)).max() > 1e-3
    norms = {}
    for name in ("norms", "both", "alone"):
        with Store(tmp_path / f"{name}.db") as store:
            assert set(store.layers(store.run().id).names) <= {"0.weight", "0.bias", "2.weight", "2.bias"}
            norms[name] = store.series(store.run().id, ["clipwise/norm"])["clipwise/norm"].values
            assert store.run().ranks == ((0,) if name == "alone" else (0, 1))
    np.testing.assert_allclose(norms["both"], norms["alone"], rtol=1e-6)
    np.testing.assert_allclose(norms["norms"][0], norms["alone"][0], rtol=1e-6)


@thorough
def test_another_python_need_not_have_clipwise(tmp_path):
    """Only torch and what it needs are importable there; clipwise comes by its folder."""
    import torch

    packages = Path(torch.__file__).parents[1]
    code = (
        "import importlib.util, runpy, sys\n"
        f"sys.path.append({str(packages)!r})\n"
        f"sys.argv = [{str(SCRIPTS / 'simple.py')!r}]\n"
        "print(importlib.util.find_spec('clipwise') is None, file=sys.stderr)\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    made = run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv")
    assert made.returncode == 0, made.stderr
    there = tmp_path / "venv" / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    done = observed("--db", tmp_path / "a.db", "--", there, "-c", code)
    assert done.returncode == 0, done.stderr
    with Store(tmp_path / "a.db") as store:
        assert store.run().steps == 12
