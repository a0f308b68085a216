"""Parameters that no mesh describes: declared, they are clipped as in one process; if not, it is an error."""

import copy
import math
from functools import cache, partial

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import Shard

import clipwise
from clipwise.errors import ArgumentError
from tests.torch.loops import sharded_groups as layouts
from tests.torch.loops.sharded import RANKS, on_all_ranks
from tests.torch.loops.sharded_groups import LAYOUTS, Layout, Run, alone, flat, gradient, refused, run
from tests.torch_engines import USUAL

pytestmark = [
    pytest.mark.skipif(not dist.is_gloo_available(), reason="torch was built without gloo"),
    pytest.mark.parametrize("engine", [USUAL], indirect=True),
]

GLOBAL = clipwise.clip_by_global_norm(0.5)
CLIPS = {
    "global": GLOBAL,
    "adagc": clipwise.adagc(warmup=5),
    "units": clipwise.adaptive_grad_clip(0.05),
    "largest": clipwise.Clip(0.2, norm=math.inf),
    "by_name": clipwise.by_name({"e*": clipwise.clip_by_norm(0.1), "*": GLOBAL}),
}
EXPECTED = {layout.__name__: names for layout, names in LAYOUTS.items()}
SENT = {name: 3 if name == "partial" else 1 for name in EXPECTED}
"""Collectives a step of a global norm; partial gradients lie on two meshes."""
CASES = [(name, "global") for name in EXPECTED] + [
    ("experts", "adagc"),
    ("expert_meshes", "units"),
    ("stages", "largest"),
    ("stages", "by_name"),
]


# What is wrong, on some rank. Each gives what that rank is to say.


def undeclared():
    layout = layouts.experts()
    layout.groups = None
    layout.names[f"expert@{dist.get_rank()}"] = "expert"
    return first_step(layout)


def unsynchronised(layout):
    """A replica whose gradient one rank has not reduced, and one that lacks it."""
    if dist.get_rank() == 2:
        layout.known["bias"].grad = gradient("bias", 1, layout.known["bias"])


def lacking(layout):
    if dist.get_rank() == 1:
        layout.known["bias"].grad = None


def laid_otherwise(layout):
    if dist.get_rank() == 3:
        layout.known["dense"].grad = torch.zeros(8, 6)


def first_step(layout, *changes):
    """Steps until one is refused: what it says, and whether anything was touched by then."""
    run = Run(layout, GLOBAL)
    said, touched = "", False
    for step, change in enumerate(changes or [lambda layout: None], 2):
        before = {}

        def keep(layout, change=change, before=before):
            change(layout)
            before |= {name: p.grad.clone() for name, p in layout.known.items() if name != "dense"}

        said = refused(partial(run.step, step, keep))
        touched = any(not torch.equal(layout.known[name].grad, was) for name, was in before.items())
    return said, touched


def undeclared_mesh():
    layout = layouts.expert_meshes()
    layout.groups = None
    return refused(lambda: Run(layout, GLOBAL).step(2))


def mixed():
    """The norm of gradients of several dtypes, and what it is."""
    run = Run(layouts.dtypes(), clipwise.clip_by_global_norm(math.inf))

    def change(layout):
        layout.known["early"].grad *= 1e25

    run.step(2, change)
    every = [layouts.whole(p.grad).double().square().sum() for p in run.layout.known.values()]
    return run.reports[0]["norm"], math.sqrt(sum(map(float, every)))


def without_tokens(layout):
    """No rank has a gradient of the third expert."""
    if "expert@2" in layout.known:
        layout.known["expert@2"].grad = None


def spoil(layout):
    if dist.is_initialized() and dist.get_rank() == 1:
        layout.known["bias"].grad[0] = math.nan


def spoilt():
    """What is not finite in the first step is skipped; replicas are compared in the next."""
    run = Run(layouts.experts(), GLOBAL, nonfinite="skip")
    run.step(0, spoil)
    said = refused(lambda: run.step(2, unsynchronised))
    return [bool(run.clipper.report.skipped), run.clipper.steps, said, len(run.reports)]


def two_steps(layout, change):
    run = Run(layout, clipwise.adagc(warmup=5))
    run.step(2, change)
    run.step(3)
    return run.found()


def attached():
    """The same by `attach`, of a model."""
    layout = layouts.experts()
    model = nn.Module()
    for known, parameter in layout.known.items():
        model.register_parameter(layout.names[known], parameter)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    clipper = clipwise.torch.attach(optimizer, GLOBAL, model=model, process_groups=layout.groups)
    layout.give_gradients(2)
    optimizer.step()
    return float(copy.deepcopy(clipper).report.norm)


def sparse(layout):
    """A gradient that this clip does not take, on one rank."""
    if dist.get_rank() == 1:
        layout.known["expert@1"].grad = torch.ones(3, 4).to_sparse()


def declared(groups, *, names=("dense", "bias"), clip=GLOBAL):
    layout = Layout(groups() if callable(groups) else groups)
    for name in names:
        layout.add(name, *((flat(), Shard(0)) if name == "dense" else ()))
    return refused(lambda: Run(layout, clip))


def only_two():
    return {"bias": dist.new_group([0, 1])}


def of_another_device():
    return {"bias": DeviceMesh("cuda", list(range(RANKS)), _init_backend=False)}


def other_patterns():
    return {"b*" if dist.get_rank() == 2 else "bias": dist.group.WORLD}


def on_each_rank(folder):
    found = {(layout.__name__, "global"): run(layout(), GLOBAL) for layout in LAYOUTS}
    by_name = {layout.__name__: layout for layout in LAYOUTS}
    for name, clip in CASES[len(LAYOUTS) :]:
        found[name, clip] = run(by_name[name](), CLIPS[clip])
    found["undeclared"] = undeclared()
    found["undeclared mesh"] = undeclared_mesh()
    found["mixed"] = mixed()
    found["unsynchronised"] = first_step(layouts.experts(), unsynchronised)
    found["none"] = refused(lambda: Run(layouts.experts(), GLOBAL).step(2, lacking))
    found["otherwise"] = refused(lambda: Run(layouts.experts(), GLOBAL).step(2, laid_otherwise))
    found["otherwise, later"] = first_step(layouts.experts(), lambda layout: None, laid_otherwise)
    found["no tokens"] = two_steps(layouts.experts(), without_tokens)
    found["spoilt"] = spoilt()
    found["attached"] = attached()
    units = Run(layouts.experts(), CLIPS["units"])
    found["sparse"] = refused(lambda: units.step(2, sparse))
    found["not in it"] = declared(only_two)
    found["device"] = declared(of_another_device)
    found["patterns"] = declared(other_patterns)
    found["nothing"] = declared(lambda: {"expert*": dist.group.WORLD})
    found["tied to nothing"] = declared({"bias": "head"})
    found["no group"] = declared({"bias": 3})
    found["names"] = declared(None, names=("dense", "bias") if dist.get_rank() else ("dense", "late"))
    return found


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    return on_all_ranks(on_each_rank, tmp_path_factory.mktemp("groups"))


@cache
def expected(layout, clip):
    return run(alone(*EXPECTED[layout]), CLIPS[clip])


def assert_same(mine, theirs):
    assert mine["worst"] == theirs["worst"]
    for key in theirs.keys() - {"worst"}:
        assert mine[key] == pytest.approx(theirs[key], rel=1e-5), key


@pytest.mark.parametrize(("layout", "clip"), CASES)
def test_it_is_what_one_process_does(ranks, layout, clip):
    one = expected(layout, clip)
    assert any(report["clip_fraction"] for report in one["reports"]), "nothing was clipped"
    for found in (rank[layout, clip] for rank in ranks):
        for name, parameter in found["parameters"].items():
            torch.testing.assert_close(parameter, one["parameters"][name], rtol=1e-6, atol=1e-6)
        assert repr(found["reports"]) == repr(ranks[0][layout, clip]["reports"])
        for mine, theirs in zip(found["reports"], one["reports"], strict=True):
            assert {*mine["norms"]} == {*EXPECTED[layout]}
            assert_same(mine, theirs)
        count = SENT[layout] + (clip == "largest")
        assert found["collectives"] == [count + 1, count]  # once how the gradients lie


def test_replicas_that_are_none_are_an_error_in_the_first_step(ranks):
    for found in ranks:
        said, touched = found["undeclared"]
        assert "the gradient of 'expert' is not the same on all ranks (rank 0 has of norm" in said
        assert "process_groups={'expert': group}" in said
        assert not touched
        assert "the gradient of 'expert' is not the same on all ranks" in found["undeclared mesh"]
        said, touched = found["unsynchronised"]
        assert "the gradient of 'bias' is not the same on all ranks" in said
        assert "rank 2 of norm" in said
        assert not touched
        assert "rank 1 none" in found["none"]


def test_only_numbers_are_sent(ranks):
    """For each of six parameters its norm and whether there is a gradient; whether there was an error, or is
    a judge; the loss, and how many know it.
    """
    first, later = ranks[0]["experts", "global"]["bytes"]
    assert later == 8 * (6 + 6 + 4)
    assert first == later + 16 * (1 + 6 + 1)  # an error, how each lies, and the checksum of the plain one


def test_mixed_dtypes_are_measured_in_float64(ranks):
    for found in ranks:
        norm, expected = found["mixed"]
        assert norm > 1e25
        assert norm == pytest.approx(expected, rel=1e-12)


def test_a_gradient_that_lies_otherwise_on_one_rank_is_an_error_on_all(ranks):
    for rank, found in enumerate(ranks):
        for said in (found["otherwise"], found["otherwise, later"][0]):
            whose = "" if rank == 3 else "rank 3: "
            assert said.startswith(f"ParameterError: {whose}the gradient of 'dense' is distributed as a")
        assert not found["otherwise, later"][1]


def test_an_expert_without_a_gradient_is_left_out(ranks):
    one = two_steps(alone(*EXPECTED["experts"]), without_tokens)
    assert "expert@2" not in one["reports"][0]["norms"]
    for found in ranks:
        for mine, theirs in zip(found["no tokens"]["reports"], one["reports"], strict=True):
            assert_same(mine, theirs)


def test_what_is_not_finite_is_skipped_before_replicas_are_compared(ranks):
    for found in ranks:
        skipped, steps, said, reports = found["spoilt"]
        assert (skipped, steps, reports) == (True, 1, 1)
        assert "'bias' is not the same on all ranks" in said


def test_attach_and_a_sparse_gradient_on_one_rank(ranks):
    one = two_steps(alone(*EXPECTED["experts"]), lambda layout: None)["reports"][0]
    for rank, found in enumerate(ranks):
        assert found["attached"] == pytest.approx(one["norm"], rel=1e-6)
        whose = "" if rank == 1 else "rank 1: "
        assert found["sparse"].startswith(f"ParameterError: {whose}per='unit' takes gradients sparse along")


def test_what_is_declared_wrongly_is_refused_on_every_rank(ranks):
    for rank, found in enumerate(ranks):
        whose = f"rank {rank}" if rank > 1 else "rank 2: process_groups: rank 2"
        assert whose in found["not in it"]
        assert "is not in the group of 'bias'" in found["not in it"]
        assert "meshes of different devices: cpu, cuda" in found["device"]
        assert "rank 0 gives the patterns 'bias', rank 2 'b*'" in found["patterns"]
        assert "the pattern 'expert*' matches no parameter of any rank" in found["nothing"]
        assert "'bias' is said to be tied to 'head', and no rank has" in found["tied to nothing"]
        assert "'bias' must have a torch.distributed process group" in found["no group"]
        assert "rank 0 has 'late' (3, 4) torch.float32, which rank 1 lacks" in found["names"]


def test_no_process_group_at_all():
    with pytest.raises(ArgumentError, match=r"call torch\.distributed\.init_process_group first"):
        clipwise.torch.Clipper([torch.zeros(2)], GLOBAL, process_groups={"*": None})
    with pytest.raises(ArgumentError, match="must map patterns of names to process groups"):
        clipwise.torch.Clipper([torch.zeros(2)], GLOBAL, process_groups=["*"])
