"""Parameters of which a rank holds a part only: refused, with torch's own call for them named."""

import json
import math

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

import clipwise
from clipwise.errors import ArgumentError
from tests.torch.loops.reference_loops import THRESHOLD, backward, gradients_of, make_model, norm_of
from tests.torch_engines import USUAL

needs_gloo = pytest.mark.skipif(
    not (dist.is_available() and dist.is_gloo_available()), reason="torch was built without gloo"
)
pytestmark = needs_gloo

CALLS = {
    "fully_shard": "for fully_shard torch.nn.utils.clip_grad_norm_",
    "FSDP": "for FullyShardedDataParallel call model.clip_grad_norm_(max_norm)",
    "FSDP, flat": "for FullyShardedDataParallel call model.clip_grad_norm_(max_norm)",
}
CLIPS = {
    "global": clipwise.clip_by_global_norm(THRESHOLD),
    "value": clipwise.clip_by_value(THRESHOLD),
}


def sharded(way: str, world: int) -> torch.nn.Module:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard

    model = make_model()
    if way == "fully_shard":
        fully_shard(model, mesh=init_device_mesh("cpu", (world,)))
        return model
    return FullyShardedDataParallel(model, use_orig_params=way == "FSDP", device_id=torch.device("cpu"))


def try_all(rank: int, folder: str, world: int) -> None:
    """What attach says of each way of sharding; written to a file by the first process."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    said = {}
    for way in CALLS:
        model = sharded(way, world)
        opt = torch.optim.SGD(model.parameters(), lr=0.1)
        for name, clip in CLIPS.items():
            try:
                clipwise.torch.attach(opt, clip, model=model).detach()
                said[f"{way}, {name}"] = ""
            except ArgumentError as error:
                said[f"{way}, {name}"] = str(error)
        said[f"{way}, hooks"] = len(opt._optimizer_step_pre_hooks)
    model = sharded("fully_shard", world)
    backward(model, 2)
    norm = clipwise.torch.clip_grad_norm_(model.parameters(), THRESHOLD)
    said["drop-in"] = norm.full_tensor().item(), norm_of([g.full_tensor() for g in gradients_of(model)])
    if rank == 0:
        with open(f"{folder}/said.json", "w") as file:
            json.dump(said, file)
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sharded")
    mp.spawn(try_all, args=(str(folder), 2), nprocs=2)
    return json.loads((folder / "said.json").read_text())


@pytest.mark.parametrize("engine", [USUAL], indirect=True)  # what is refused never reaches it
@pytest.mark.parametrize("way", CALLS)
def test_a_part_of_the_parameters_is_refused(said, way):
    for name in CLIPS:
        message = said[f"{way}, {name}"]
        assert "one rank's shard" in message
        assert CALLS[way] in message
    assert said[f"{way}, hooks"] == 0


@pytest.fixture
def group(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("group")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("way", ["FSDP", "FSDP, flat"])
def test_a_group_of_one_holds_everything(way):
    model, reference = sharded(way, 1), make_model()
    opt = torch.optim.SGD(model.parameters(), lr=0.1)
    clipper = clipwise.torch.attach(opt, CLIPS["global"])
    backward(model, 2)
    opt.step()
    backward(reference, 2)
    norm = norm_of(gradients_of(reference))
    assert norm > THRESHOLD
    assert float(clipper.report.norm) == pytest.approx(norm, rel=1e-6)
    assert math.isclose(norm_of(gradients_of(model)), THRESHOLD, rel_tol=1e-6)


@pytest.mark.parametrize("engine", [USUAL], indirect=True)  # torch does it
def test_the_drop_ins_pass_distributed_tensors_on_to_torch(said):
    reference = make_model()
    backward(reference, 2)
    told, after = said["drop-in"]
    assert told == pytest.approx(norm_of(gradients_of(reference)), rel=1e-5)
    assert after == pytest.approx(THRESHOLD, rel=1e-5)
