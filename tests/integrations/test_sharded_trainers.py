"""Sharded models in the trainers, for real, on two processes: what one process does with all of the data."""

import importlib.util
from functools import cache

import pytest
import torch
import torch.distributed as dist

from tests.depth import THOROUGH, brief, thorough
from tests.integrations.test_two_processes import run
from tests.torch.loops.reference_loops import (
    STEPS,
    THRESHOLD,
    batch,
    clip_globally,
    make_model,
    norm_of,
)

pytestmark = pytest.mark.skipif(
    not (dist.is_available() and dist.is_gloo_available()), reason="torch was built without gloo"
)
NEEDS = {
    "lightning": "lightning",
    "fabric": "lightning",
    "accelerate": "accelerate",
    "transformers": "transformers",
}
LOOPS = brief(
    [
        "plain",
        "plain_ddp",
        "lightning_model_parallel",
        "fabric_ddp",
        "fabric_model_parallel",
        "fabric_clips_too",
        "accelerate",
        "accelerate_ddp",
        "accelerate_attached_before",
        "accelerate_clips_too",
    ],
    "plain",
    "accelerate",
    "accelerate_clips_too",
)
TRAINERS = brief(
    ["transformers", "transformers_native", "transformers_native_mixed"],
    "transformers",
    "transformers_native_mixed",
)
OTHERS = ["transformers_patched", "transformers_clips_too", "transformers_measured"]
RESUMED = ["lightning_resumed", "accelerate_resumed"]
LONGER = [*RESUMED, "lightning_hears", "lightning_fsdp1"]
CASES = [*LOOPS, *TRAINERS, *OTHERS, *(LONGER if THOROUGH else ())]


def needed_by(case):
    """The package that is not here, None where the case runs."""
    name = NEEDS.get(case.partition("_")[0])
    return name if name is not None and importlib.util.find_spec(name) is None else None


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    cases = [case for case in CASES if needed_by(case) is None]
    return run("two_processes_sharded.py", tmp_path_factory.mktemp("sharded"), *cases)


def of(ranks, case):
    if name := needed_by(case):
        pytest.skip(f"{name} is not installed")
    return [rank[case] for rank in ranks]


def assert_the_same(found, expected, **tolerance):
    """To the bit on both ranks; to rounding as in one process."""
    first, second = (one["model"] for one in found)
    assert first.keys() == second.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(first[name], second[name])
        torch.testing.assert_close(first[name], value, **{"rtol": 1e-6, "atol": 1e-6} | tolerance)


@cache
def in_one_process(follows_loss=False):
    """The loop by hand on whole batches: the weights, and how many steps were clipped."""
    model, clipped = make_model(), 0
    opt = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for step in range(STEPS):
        opt.zero_grad()
        loss = model(batch(step)[:4]).square().mean() * (10.0 if step % 3 == 2 else 0.01)
        loss.backward()
        clipped += clip_globally(model, float(loss.detach()) if follows_loss else THRESHOLD)
        opt.step()
    assert clipped > 0
    return model.state_dict(), clipped


@pytest.mark.parametrize("case", LOOPS)
def test_a_clip_in_each_trainer(ranks, case):
    found, (weights, clipped) = of(ranks, case), in_one_process()
    assert_the_same(found, weights)
    for one in found:
        assert (one["steps"], one["clipped"]) == (STEPS, clipped)
        assert one["names"][0].endswith("0.weight")
        assert len(one.get("told", [])) == case.endswith("clips_too")
    assert found[0]["norm"] == found[1]["norm"]
    assert found[0]["norm"] > THRESHOLD
    if case.startswith("lightning"):
        assert found[0]["logged"] == found[0]["norm"]


@thorough
def test_lightning_tells_the_mean_loss(ranks):
    found, (weights, clipped) = of(ranks, "lightning_hears"), in_one_process(follows_loss=True)
    assert_the_same(found, weights)
    assert [one["clipped"] for one in found] == [clipped] * 2


@thorough
@pytest.mark.parametrize("case", RESUMED)
def test_resumed_from_the_trainers_own_checkpoint(ranks, case):
    """As if it had never stopped."""
    found = of(ranks, case)
    assert_the_same(found, found[0]["through"], rtol=0, atol=0)
    assert {one["steps"] for one in found} == {2 * STEPS}


@thorough
def test_flat_parameters_are_refused_in_lightning(ranks):
    for found in of(ranks, "lightning_fsdp1"):
        assert "requires a GPU accelerator" in found["theirs"]
        assert found["ours"].startswith("ArgumentError: 'net.")
        assert "call model.clip_grad_norm_(max_norm) before the step" in found["ours"]


@cache
def gpt2_in_one_process(scaled=False):
    from tests.integrations.transformers_runs import make_gpt2, train_by_hand, with_scale

    model = with_scale(make_gpt2()) if scaled else make_gpt2()
    model, rows = train_by_hand(accumulate=2, model=model)
    before, after, _ = map(list, zip(*rows, strict=True))
    assert before != after
    return model.state_dict(), before, after


@pytest.mark.parametrize("case", TRAINERS)
def test_the_hugging_face_trainer(ranks, case):
    """Of which nothing clips but the callback: its norms are beyond max_grad_norm, 1.0."""
    found = of(ranks, case)
    weights, before, after = gpt2_in_one_process(case.endswith("mixed"))
    for one in found:
        assert one["norms"] == pytest.approx(before, rel=1e-5)
        assert one["told"] == []
    assert found[0]["after"] == pytest.approx(after, rel=1e-5)
    assert max(after) > 1.0
    assert_the_same(found, weights, rtol=1e-5)


def test_the_hugging_face_trainer_with_clipwise_in_the_place_of_torch(ranks):
    found, (weights, before, _) = of(ranks, "transformers_patched"), gpt2_in_one_process()
    for one in found:
        assert one["norms"] == pytest.approx(before, rel=1e-5)
    assert_the_same(found, weights, rtol=1e-5)


def test_the_hugging_face_trainer_clips_too(ranks):
    for one in of(ranks, "transformers_clips_too"):
        assert len(one["told"]) == 1
        assert one["told"][0].startswith("the loop clips too: torch.nn.utils.clip_grad_norm_ to 1,")


def test_a_norm_that_the_trainer_measures_counts_what_one_rank_lacks_as_nothing(ranks):
    for one in of(ranks, "transformers_measured"):
        assert one["norm"] == pytest.approx(norm_of(one["gradients"]), rel=1e-6)
