"""What is around the step of sharded models: the same as in one process, on every rank, and nobody waits."""

import math
from functools import cache

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict
from torch.utils._pytree import tree_leaves

import clipwise
from clipwise.monitor import Store
from tests.thresholds import oracles
from tests.torch.loops import around_shards as around
from tests.torch.loops import recorded_shards as recorded
from tests.torch.loops import saved_shards as saved
from tests.torch.loops.around_shards import GLOBAL, SENT, SHORT, WEIGHT_CASES
from tests.torch.loops.reference_loops import backward, make_model
from tests.torch.loops.saved_shards import LAST, SAVED_AT
from tests.torch.loops.sharded import RANKS, Net, Run, on_all_ranks
from tests.torch_engines import USUAL

pytestmark = [
    pytest.mark.skipif(not dist.is_gloo_available(), reason="torch was built without gloo"),
    pytest.mark.parametrize("engine", [USUAL], indirect=True),  # of this process; what is here asks for none
]


def on_each_rank(folder):
    found = {("weights", *case): around.bounded(*case) for case in WEIGHT_CASES}
    found["updates"] = around.updated("fsdp")
    found["normalised"] = around.normalised("fsdp")
    found["in turn"] = around.bounded_in_turn("fsdp")
    found["stages"] = around.bounded_stages(alone=False)
    found["veto"] = around.vetoed("fsdp", lambda clipper: dist.get_rank() == 3)
    found["veto of one"] = around.veto_of_one()
    found["entries"] = around.of_entries("fsdp")
    found["entries refused"] = around.error_of(
        lambda: Run("fsdp", clipwise.Clip(around.Remembering(), per="element"))
    )
    found["gradients"] = around.gradients_in_place_of_parameters()
    for layout in ("fsdp", "fsdp_tp"):
        found["qk", layout] = around.qk(layout)
    found["monitor"] = recorded.monitored("fsdp", folder)
    found["observed"] = recorded.observed("fsdp", folder, lost=True)
    found["clipped"] = recorded.observed("fsdp", folder, clip="clip_by_global_norm(0.5)")
    found["partial"] = recorded.norms_of_partial_gradients()
    found["own"] = recorded.observed_clipping("fsdp", folder)
    found["checkpoint"] = saved.saved_and_resumed(folder)
    found["offloaded"] = saved.offloaded()
    found["zero"] = saved.zero(RANKS)
    found["replicas"] = saved.replicas(RANKS)
    found["replicas that skip"] = saved.replicas_that_skip(RANKS)
    found["one observes"] = saved.replicas_of_which_one_observes()
    found["flat"] = recorded.flat_from_outside(folder)
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("around")


@pytest.fixture(scope="module")
def ranks(folder):
    return on_all_ranks(on_each_rank, folder)


def assert_alike(ranks, key, expected):
    """On every rank the numbers of one process, and the same bits in all reports."""
    for found in ranks:
        assert repr(found[key]["reports"]) == repr(ranks[0][key]["reports"])
        torch.testing.assert_close(found[key]["parameters"], expected["parameters"], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(ranks[0][key]["reports"], expected["reports"], rtol=1e-5)


@cache
def bounded_alone(name):
    return around.bounded(None, name)


@pytest.mark.parametrize(("layout", "name"), WEIGHT_CASES)
def test_weights_are_bounded_as_in_one_process(ranks, layout, name):
    expected = bounded_alone(name)
    assert any(clipped for _, _, clipped, _ in expected["reports"])
    assert_alike(ranks, ("weights", layout, name), expected)
    assert ranks[0]["weights", layout, name]["sent"] == {SENT[name]}


def test_updates_are_clipped_as_in_one_process(ranks):
    expected = around.updated(None)
    assert all(any(report[-place] > 0 for report in expected["reports"]) for place in (1, 2, 3))
    assert_alike(ranks, "updates", expected)


def test_what_is_normalised_is_left_out_on_all_ranks(ranks):
    expected = around.normalised(None)
    assert [report[0] for report in expected["reports"]] == [2] * SHORT
    assert [report[3] for report in expected["reports"]] == [step in (2, 3) for step in range(SHORT)]
    assert_alike(ranks, "normalised", expected)


def test_weights_of_optimizers_that_step_in_turn(ranks):
    assert_alike(ranks, "in turn", around.bounded_in_turn(None))


def test_weights_of_stages(ranks):
    expected = around.bounded_stages(alone=True)
    assert all(0 < at_bound < 1 for *_, at_bound in expected["reports"])
    for found, weight in zip(ranks, expected["parameters"], strict=True):
        torch.testing.assert_close(found["stages"]["parameters"], [weight])
        assert found["stages"]["reports"] == ranks[0]["stages"]["reports"]
    np.testing.assert_allclose(ranks[0]["stages"]["reports"], expected["reports"], rtol=1e-6)


def test_one_veto_leaves_the_step_out_on_all_ranks(ranks):
    expected = around.vetoed(None, lambda clipper: True)
    assert expected["skipped"] == [step == 2 for step in range(SHORT)]
    for found in ranks:
        assert found["veto"]["skipped"] == expected["skipped"]
        assert found["veto"]["heard"] == ranks[0]["veto"]["heard"]
        np.testing.assert_allclose(found["veto"]["heard"], expected["heard"], rtol=1e-5)
        torch.testing.assert_close(found["veto"]["parameters"], expected["parameters"], rtol=1e-6, atol=1e-6)
        assert {*found["veto"]["sent"][1:]} == {2}
        assert "1 of 4 ranks have a veto" in found["veto of one"]


def test_entries_bounded_by_their_weights(ranks):
    expected = around.of_entries(None)
    assert_alike(ranks, "entries", expected)
    assert {*ranks[0]["entries"]["sent"][1:]} == {3}
    assert all("keeps a state for every entry" in found["entries refused"] for found in ranks)


def test_gradients_in_the_place_of_parameters_are_refused(ranks):
    for found in ranks:
        assert ["pass model.parameters()" in said for said in found["gradients"]] == [True] * 3


@pytest.mark.parametrize("layout", ["fsdp", "fsdp_tp"])
def test_qk_clip_scales_the_rows_that_each_rank_holds(ranks, layout):
    expected = around.qk(None)
    assert expected["gamma"][0].tolist() == pytest.approx([0.25, 0.5, 0.125, 0.8])
    for found in ranks:
        own = found["qk", layout]
        torch.testing.assert_close(own["gamma"], expected["gamma"])
        torch.testing.assert_close(own["weights"], expected["weights"])
        assert own["sent"] == 1
        assert "observe q and k" in own["refused"][-1]
        if layout == "fsdp":
            torch.testing.assert_close(own["largest"], expected["largest"])
            assert "would be lost" in own["refused"][0]


def series(path, run, name, rank=0):
    with Store(path) as store:
        there = store.run(run).id
        # It has a name where other optimizers live in the process, such as those of other tests.
        (source,) = store.clippers(there)
        return store.series(there, [name], source, rank=rank)[name].values


@cache
def norms_alone():
    """The norms of the gradients before each step that is clipped as `GLOBAL` does, and the parameters."""
    run = Run(None, GLOBAL)
    found = []
    for step in range(SHORT):
        run.backward(step)
        every = [p.grad.double().square().sum() for p in run.model.parameters()]
        found.append(math.sqrt(sum(map(float, every))))
        run.optimizer.step()
    return found, run.parameters()


def test_a_monitor_records_whole_norms_and_leaves_out_on_all(ranks, folder):
    path = folder / "fsdp.db"
    norms = series(path, "run", "clipwise/norm")
    for rank in range(RANKS):
        assert series(path, "run", "clipwise/norm", rank).tolist() == norms.tolist()
        assert series(path, "run", "clipwise/skipped", rank).tolist() == [0, 0, 1, 0, 0, 0]
        assert {*ranks[rank]["monitor"][1:]} == {2}  # the clip's, and whether to leave the step out
    np.testing.assert_allclose(norms[:3], norms_alone()[0][:3], rtol=1e-6)
    with Store(path) as store:
        layers = store.layers(store.run("run").id)
        assert sorted(layers.names) == sorted(dict(Net().named_parameters()))
        assert store.run("run").ranks == (0, 1, 2, 3)


@pytest.mark.filterwarnings("ignore:clipwise")  # of rules that speak, too
def test_observed_from_outside(ranks, folder):
    expected = recorded.observed(None, str(folder))
    path = folder / "fsdp-norms.db"
    norms = series(path, "fsdp-norms", "clipwise/norm")
    alone = series(folder / "None-norms.db", "None-norms", "clipwise/norm")
    assert len(norms) == SHORT  # in the last step one rank had no gradient
    np.testing.assert_allclose(norms[:-1], alone[:-1], rtol=1e-6)
    assert 0 < norms[-1] < alone[-1]
    for rank, found in enumerate(ranks):
        assert series(path, "fsdp-norms", "clipwise/norm", rank).tolist() == norms.tolist()
        assert found["observed"]["said"] == expected["said"] == []
        assert {*found["observed"]["sent"][1:]} == {1}
    alerts = []
    for path in (folder / "fsdp-norms.db", folder / "None-norms.db"):
        with Store(path) as store:
            run = store.run().id
            (source,) = store.clippers(run)
            assert sorted(store.layers(run, source).names) == sorted(dict(Net().named_parameters()))
            alerts.append({(one.rule, one.step) for one in store.alerts(run)})
    assert alerts[0] == alerts[1] != set()


@pytest.mark.filterwarnings("ignore:clipwise")
def test_the_scripts_own_clip_is_seen(ranks, folder):
    said = recorded.observed_clipping(None, str(folder))
    for name in ("clipwise/norm", "clipwise/threshold", "clipwise/norm_after"):
        alone = series(folder / "None-own.db", "None-own", name)
        np.testing.assert_allclose(series(folder / "fsdp-own.db", "fsdp-own", name), alone, rtol=1e-5)
    assert set(series(folder / "fsdp-own.db", "fsdp-own", "clipwise/threshold")) == {0.5}
    assert all("partial sums on each rank" in found["partial"] for found in ranks)
    assert [found["own"] for found in ranks] == [said] * RANKS == [[]] * RANKS


def test_clipped_from_outside(ranks, folder):
    norms, parameters = norms_alone()
    for rank, found in enumerate(ranks):
        assert found["clipped"]["said"] == []
        torch.testing.assert_close(found["clipped"]["parameters"], parameters, rtol=1e-6, atol=1e-6)
        recorded = series(folder / "fsdp-clip.db", "fsdp-clip", "clipwise/norm", rank)
        np.testing.assert_allclose(recorded, norms, rtol=1e-6)


@cache
def uninterrupted():
    run = saved.Resumable()
    run.train(0, SAVED_AT)
    first = run.now()
    run.train(SAVED_AT, LAST)
    return {"saved": first, "end": run.now()}


def assert_same_training(found, expected):
    torch.testing.assert_close(found["parameters"], expected["parameters"], rtol=1e-5, atol=1e-6)
    assert_same_state(found["state"], expected["state"])


def assert_same_state(found, expected):
    for one, other in zip(tree_leaves(found), tree_leaves(expected), strict=True):
        if isinstance(one, torch.Tensor):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7, equal_nan=True)
        else:
            assert one == other


def test_saved_on_four_ranks_and_resumed_on_two_and_on_one(ranks, folder):
    expected = uninterrupted()
    for found in ranks:
        assert_same_training(found["checkpoint"]["saved"], expected["saved"])
        assert repr(found["checkpoint"]["saved"]["state"]) == repr(ranks[0]["checkpoint"]["saved"]["state"])
    for found in ranks[:2]:
        assert_same_training(found["checkpoint"]["two"], expected["end"])
    one = saved.Resumable()
    state = one.state()
    dcp.load(state, checkpoint_id=folder / "checkpoint", no_dist=True)
    saved.set_model_state_dict(one.model, state["model"])
    saved.set_optimizer_state_dict(one.model, one.optimizer, state["optimizer"])
    assert_same_training(one.now(), expected["saved"])
    one.train(SAVED_AT, LAST)
    assert_same_training(one.now(), expected["end"])
    again = saved.Resumable()
    again.clipper.load_state_dict(torch.load(folder / "clipper.pt", weights_only=True))
    assert_same_state(again.now()["state"], ranks[0]["checkpoint"]["saved"]["state"])


def test_a_step_that_only_makes_an_optimizers_state_is_none():
    model = make_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    clip = clipwise.Clip(clipwise.thresholds.reduce_on_instability(0.5))
    clipper = clipwise.torch.attach(optimizer, clip, model=model, weights=clipwise.clip_by_value(1e-3))
    heard = []
    clipper.follow(lambda *told: heard.append(told))
    before = [p.detach().clone() for p in model.parameters()]
    assert get_optimizer_state_dict(model, optimizer)["state"]
    assert (clipper.steps, clipper.report, clipper.weights.report, heard) == (0, None, None, [])
    assert all(map(torch.equal, before, model.parameters()))
    clipper.observe(backward(model, 2))
    optimizer.step()
    assert (clipper.steps, clipper.weights.steps, len(heard)) == (1, 1, 1)


def test_gradients_on_the_host(ranks):
    run = Run(None, clipwise.adagc(warmup=3))
    for step in range(SHORT):
        run.step(step)
    for found in ranks:
        torch.testing.assert_close(found["offloaded"]["parameters"], run.parameters(), rtol=1e-6, atol=1e-6)
        assert found["offloaded"]["norm"] == pytest.approx(run.reports[-1]["norm"], rel=1e-5)


def test_zero_redundancy_optimizers_clip_what_all_ranks_have(ranks):
    expected = saved.zero(1)
    assert expected["skipped"] == 1
    for found in ranks:
        assert found["zero"]["skipped"] == 1
        assert repr(found["zero"]["norms"]) == repr(ranks[0]["zero"]["norms"])
        np.testing.assert_allclose(found["zero"]["norms"], expected["norms"], rtol=1e-5)
        torch.testing.assert_close(found["zero"]["parameters"], expected["parameters"], rtol=1e-6, atol=1e-6)


def test_flat_parameters_are_left_alone_from_outside(ranks, folder):
    for found in ranks:
        assert ["neither clipped nor measured" in said for said in found["flat"]] == [True]
        assert "call model.clip_grad_norm_(max_norm)" in found["flat"][0]


def test_replicas_follow_the_mean_loss(ranks):
    """DDP: each rank has a loss of its own, with which thresholds and weights would drift apart."""
    expected = saved.replicas(1)
    assert len({found["replicas"]["losses"][0] for found in ranks}) == RANKS
    for found in ranks:
        assert found["replicas"]["thresholds"] == ranks[0]["replicas"]["thresholds"]
        torch.testing.assert_close(
            found["replicas"]["parameters"], expected["parameters"], rtol=1e-6, atol=1e-6
        )
        assert "1 of 4 ranks observe a loss" in found["one observes"]
    np.testing.assert_allclose(ranks[0]["replicas"]["thresholds"], expected["thresholds"], rtol=1e-5)


def test_replicas_skip_by_the_mean_loss(ranks):
    wanted = oracles.skip_losses(oracles.LOSSES, 4.0, 8, 2)
    assert sum(wanted) == 4
    alone = [oracles.skip_losses(saved.own_losses(rank), 4.0, 8, 2) for rank in range(RANKS)]
    assert len({*map(tuple, alone)}) > 1
    expected = saved.replicas_that_skip(1)
    assert expected["skipped"] == wanted
    for found in ranks:
        assert found["replicas that skip"]["skipped"] == wanted
        torch.testing.assert_close(
            found["replicas that skip"]["parameters"], expected["parameters"], rtol=1e-6, atol=1e-6
        )
