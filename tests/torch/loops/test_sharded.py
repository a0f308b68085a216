"""Parameters that are spread over ranks: the same line, and the same numbers as on one device."""

import math
from functools import cache

import pytest
import torch
import torch.distributed as dist
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.distributed.tensor import DTensor, Partial

import clipwise
from clipwise.errors import ClipwiseError
from tests.depth import THOROUGH
from tests.torch.loops.reference_loops import THRESHOLD, backward, gradients_of, make_model, norm_of
from tests.torch.loops.sharded import LAYOUTS, STEPS, Collectives, Net, Run, on_all_ranks
from tests.torch_engines import USUAL, using

pytestmark = [
    pytest.mark.skipif(not dist.is_gloo_available(), reason="torch was built without gloo"),
    pytest.mark.parametrize("engine", [USUAL], indirect=True),  # of this process; what is here asks for none
]

GLOBAL = clipwise.clip_by_global_norm(0.5)
CLIPS = {
    "global": (GLOBAL, 1),
    "tensor": (clipwise.clip_by_norm(0.2), 1),
    "rms": (clipwise.clip_by_block_rms(0.03), 1),
    "third": (clipwise.Clip(0.4, norm=3.0), 1),
    "largest": (clipwise.Clip(0.2, norm=math.inf), 2),
    "autoclip": (clipwise.autoclip(40), 1),
    "zclip": (clipwise.zclip(1.0, warmup=5), 1),
    "adagc": (clipwise.adagc(warmup=5), 1),
    "auto": (clipwise.auto(), 1),
    "relative": (clipwise.Clip(clipwise.thresholds.relative(0.1), per="tensor"), 1),
    "loss": (clipwise.Clip(clipwise.thresholds.reduce_on_instability(0.5)), 1),
    "units": (clipwise.adaptive_grad_clip(0.05), 1),
    "units, then all": (clipwise.chain(clipwise.Clip(0.1, per="unit"), GLOBAL), 1),
    "value": (clipwise.clip_by_value(0.05), 1),
    "range, then all": (clipwise.chain(clipwise.clip_by_value(low=-0.1, high=0.05), GLOBAL), 1),
    "values by a schedule": (clipwise.clip_by_value(clipwise.thresholds.linear(0.1, 0.05, steps=9)), 2),
    "chain": (clipwise.chain(clipwise.clip_by_norm(0.3), GLOBAL), 1),
    "spikes": (
        clipwise.chain(clipwise.skip_spikes(3.0, window=4), clipwise.clip_by_global_norm(0.1)),
        1,
    ),
    "by_name": (clipwise.by_name({"first.*": clipwise.clip_by_norm(0.1), "*": GLOBAL}), 1),
}
"""Each clip, and how many collectives a step takes."""
RARER = ("rms", "third", "zclip", "relative", "chain", "values by a schedule")
CASES = [("fsdp", name) for name in CLIPS if THOROUGH or name not in RARER] + [
    *((layout, "global") for layout in LAYOUTS if layout != "fsdp"),
    ("fsdp_tp", "tensor"),  # a weight in strides
    ("tensor", "units"),  # a rank has parts of rows
    ("hsdp", "units"),
]
WAYS = ("skip", "zero", "error", "propagate")


def lose(model):
    """One rank has no gradient of a weight that the others have; of `last.bias` nobody has one."""
    if dist.is_initialized() and dist.get_rank() == 1:
        model.first.weight.grad = None
    elif not dist.is_initialized():
        model.first.weight.grad[2:4] = 0.0
    model.last.bias.grad = None


def spoil(model):
    """NaN in what the third rank holds."""
    if not dist.is_initialized():
        model.first.weight.grad[4] = math.nan
    elif dist.get_rank() == 2:
        model.first.weight.grad.to_local()[0] = math.nan


def clipped_run(layout, name, **keywords):
    run = Run(layout, CLIPS[name][0], **keywords)
    for step in range(STEPS):
        run.step(step)
    return {"reports": run.reports, "collectives": run.collectives, "parameters": run.parameters()}


def one_step(layout, change, name="tensor", **keywords):
    run = Run(layout, CLIPS[name][0], **keywords)
    error = None
    try:
        run.step(2, change)
    except ClipwiseError as raised:
        error = f"{type(raised).__name__}: {raised}"
    return {"reports": run.reports, "parameters": run.parameters(), "error": error}


def refused(make):
    try:
        make()
    except ClipwiseError as error:
        return str(error)
    return ""


def partial_for_a_drop_in():
    model = Net()
    LAYOUTS["fsdp"](model)
    bias = model.last.bias
    bias.grad = DTensor.from_local(torch.ones(3), bias.device_mesh, [Partial()])
    clipwise.torch.clip_grad_norm_(model.parameters(), 0.1)


def gradients_as_parameters():
    run = Run("fsdp", GLOBAL)
    run.backward(2)
    gradients = (p.grad for p in run.model.parameters())
    clipwise.torch.clip_grads_with_norm_(gradients, 0.1, torch.tensor(2.0))


def different_parameters():
    model = Net()
    LAYOUTS["fsdp"](model)
    every = list(model.named_parameters())
    clipwise.torch.Clipper(every[1:] if dist.get_rank() == 3 else every, GLOBAL)


def flat():
    model = FullyShardedDataParallel(make_model(), use_orig_params=True, device_id=torch.device("cpu"))
    clipwise.torch.Clipper(model, GLOBAL)


def dropped_in(layout):
    """What each drop-in returns, leaves, and sends."""
    found = {}
    functions = {
        "norm": lambda model: clipwise.torch.clip_grad_norm_(model.parameters(), 0.1),
        "largest": lambda model: clipwise.torch.clip_grad_norm_(model.parameters(), 0.1, math.inf),
        "total": lambda model: clipwise.torch.get_total_norm([p.grad for p in model.parameters()]),
        "value": lambda model: clipwise.torch.clip_grad_value_(model.parameters(), 0.01),
        "known": lambda model: clipwise.torch.clip_grads_with_norm_(
            model.parameters(), 0.1, torch.tensor(2.0)
        ),
    }
    for name, function in functions.items():
        run = Run(layout, GLOBAL)
        run.backward(2)
        with Collectives() as collectives:
            returned = function(run.model)
        found[name] = (returned, run.gradients(), collectives.count)
    return found


def dropped_in_without_gradients():
    run = Run("fsdp", GLOBAL)
    run.backward(2)
    if dist.get_rank() == 1:
        run.model.zero_grad()
    return clipwise.torch.clip_grad_norm_(run.model.parameters(), 0.1)


def on_each_rank(folder):
    found = {case: clipped_run(*case) for case in CASES}
    with using("foreach"):  # norms stay in torch, as on a GPU
        found["device"] = clipped_run("fsdp", "adagc")
    found["direction"] = one_step("fsdp", lambda model: None, "value", direction=True)
    found["lost"] = one_step("fsdp", lose, "rms")
    for way in WAYS:
        found[way] = one_step("fsdp", spoil, nonfinite=way)
    found["dropins"] = {layout: dropped_in(layout) for layout in ("fsdp", "fsdp_tp", "two_meshes")}
    found["dropins, lost"] = dropped_in_without_gradients()
    found["partial"] = refused(partial_for_a_drop_in)
    found["gradients"] = refused(gradients_as_parameters)
    found["different"] = refused(different_parameters)
    found["flat"] = refused(flat)
    found["units"] = refused(lambda: Run("fsdp_tp", clipwise.adaptive_grad_clip(0.01)))
    found["lost, units"] = one_step("fsdp", lose, "units")
    return found


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    return on_all_ranks(on_each_rank, tmp_path_factory.mktemp("sharded"))


@cache
def alone(name):
    return clipped_run(None, name)


def assert_same_steps(ranks, key, expected, tolerance=1e-6):
    """On every rank the parameters and reports of one process; and all ranks say the same, to the bit."""
    for found in ranks:
        torch.testing.assert_close(found[key]["parameters"], expected["parameters"], rtol=1e-6, atol=1e-6)
        # A policy's state is counted in the same bits everywhere, so that no rank decides otherwise.
        assert repr(found[key]["reports"]) == repr(ranks[0][key]["reports"])
    for one, other in zip(ranks[0][key]["reports"], expected["reports"], strict=True):
        assert one.keys() == other.keys()
        for name, value in one.items():
            exact = isinstance(value, bool) or name in ("names", "nonfinite") or value is None
            right = other[name] if exact else pytest.approx(other[name], rel=tolerance, nan_ok=True)
            assert value == right, name


@pytest.mark.parametrize(("layout", "name"), CASES)
def test_it_is_what_one_process_does(ranks, layout, name):
    expected = alone(name)
    assert any(report["clip_fraction"] for report in expected["reports"]), "nothing was clipped"
    assert any(report["skipped"] for report in expected["reports"]) == (name == "spikes")
    assert_same_steps(ranks, (layout, name), expected, tolerance=1e-5)
    count = CLIPS[name][1]  # and once how the gradients lie, and whether replicas are some
    assert ranks[0][layout, name]["collectives"] == [count + 1, count, count]


def test_the_device_path_and_a_direction(ranks):
    assert_same_steps(ranks, "device", alone("adagc"), tolerance=1e-5)
    assert_same_steps(ranks, "direction", one_step(None, lambda model: None, "value", direction=True))


def test_a_rank_without_a_gradient_does_not_keep_the_others_waiting(ranks):
    expected = one_step(None, lose, "rms")
    assert expected["reports"][0]["names"] == ["plain", "first.weight", "first.bias", "last.weight"]
    # SGD leaves alone what has no gradient, and moves by none where it is 0.
    assert_same_steps(ranks, "lost", expected)
    assert_same_steps(ranks, "lost, units", one_step(None, lose, "units"))


@pytest.mark.parametrize("way", WAYS)
def test_all_ranks_see_what_is_not_finite_on_one(ranks, way):
    expected = one_step(None, spoil, nonfinite=way)
    for found in ranks:
        assert found[way]["error"] == expected["error"]
        torch.testing.assert_close(
            found[way]["parameters"], expected["parameters"], rtol=1e-6, atol=1e-6, equal_nan=True
        )
        assert repr(found[way]["reports"]) == repr(ranks[0][way]["reports"])
    for one, other in zip(ranks[0][way]["reports"], expected["reports"], strict=True):
        assert (one["skipped"], one["nonfinite"]) == (other["skipped"], other["nonfinite"])


SENT = {"norm": 1, "largest": 1, "total": 1, "value": 0, "known": 0}


@pytest.mark.parametrize("layout", ["fsdp", "fsdp_tp", "two_meshes"])
def test_the_drop_ins_take_the_norm_of_the_whole(ranks, layout):
    expected = dropped_in(None)
    for found in ranks:
        for name, (returned, gradients, sent) in found["dropins"][layout].items():
            assert type(returned) is type(expected[name][0])
            torch.testing.assert_close(returned, expected[name][0])
            torch.testing.assert_close(gradients, expected[name][1])
            assert sent == SENT[name], name
    assert len({float(found["dropins, lost"]) for found in ranks}) == 1


def test_what_is_refused_is_refused_on_every_rank(ranks):
    for found in ranks:
        assert "is a partial sum on each rank (P(sum)): redistribute it" in found["partial"]
        assert "none of these 5 tensors is a parameter" in found["gradients"]
        assert "the ranks have different parameters: rank 0" in found["different"]
        assert "'plain'" in found["different"]
        assert "call model.clip_grad_norm_(max_norm)" in found["flat"]
        assert "unlike 'first.weight'" in found["units"]


@pytest.fixture
def group(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("group")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("original", [True, False])
def test_a_flat_parameter_on_one_rank_is_whole(original):
    reference = make_model()
    model = FullyShardedDataParallel(make_model(), use_orig_params=original, device_id=torch.device("cpu"))
    opt = torch.optim.SGD(model.parameters(), lr=0.1)
    clipper = clipwise.torch.attach(opt, clipwise.clip_by_global_norm(THRESHOLD))
    backward(model, 2)
    opt.step()
    backward(reference, 2)
    norm = norm_of(gradients_of(reference))
    assert norm > THRESHOLD
    assert float(clipper.report.norm) == pytest.approx(norm, rel=1e-6)
    assert math.isclose(norm_of(gradients_of(model)), THRESHOLD, rel_tol=1e-6)
