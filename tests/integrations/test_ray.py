"""Ray Train's TorchTrainer for real, with two workers on the CPU: DDP and FSDP2, as one process does it."""

import os
import pathlib

import pytest
import torch
import torch.distributed as dist

pytest.importorskip("ray.train", reason="ray is not installed: pip install 'clipwise[ray]'")

import ray
import ray.train
from ray.train import Checkpoint, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer, prepare_model
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import clipwise
from tests.depth import thorough
from tests.integrations.test_sharded_trainers import assert_the_same, in_one_process
from tests.integrations.two_processes_sharded import CLIP, found, half, loss_of, sgd
from tests.torch.loops.reference_loops import STEPS, make_model

ROOT = pathlib.Path(__file__).parents[2]


def worker(config):
    """What each worker of Ray runs."""
    torch.set_num_threads(1)
    model = make_model()
    if config["layout"] == "ddp":
        wrapped = prepare_model(model)
    else:
        wrapped = fully_shard(model, mesh=init_device_mesh("cpu", (2,)))
    opt = sgd(wrapped.parameters())
    clipper = clipwise.torch.attach(opt, CLIP, model=model)
    for step in range(STEPS):
        opt.zero_grad()
        loss_of(wrapped, step, half()).backward()
        opt.step()
        if step < STEPS - 1:
            ray.train.report({"norm": float(clipper.report.norm)})
    rank = dist.get_rank()
    torch.save(found(model, clipper), f"{config['folder']}/rank{rank}.pt")
    last = f"{config['folder']}/last{rank}"
    os.mkdir(last)
    torch.save(clipper.state_dict(), f"{last}/clipper.pt")
    checkpoint = Checkpoint.from_directory(last) if rank == 0 else None
    ray.train.report({"norm": float(clipper.report.norm)}, checkpoint=checkpoint)


@pytest.fixture(scope="module")
def cluster():
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    quiet = {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")  # or a token is written into the home folder
        ray.init(num_cpus=2, include_dashboard=False, runtime_env={"env_vars": quiet}, log_to_driver=False)
        yield
        ray.shutdown()


@thorough
@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize("layout", ["ddp", "fsdp"])
def test_a_clip_in_ray_train(layout, tmp_path):
    trainer = TorchTrainer(
        worker,
        train_loop_config={"layout": layout, "folder": str(tmp_path)},
        scaling_config=ScalingConfig(num_workers=2),
        run_config=RunConfig(name=layout, storage_path=str(tmp_path / "ray")),
    )
    result = trainer.fit()
    ranks = [torch.load(tmp_path / f"rank{rank}.pt") for rank in (0, 1)]
    weights, clipped = in_one_process()
    assert_the_same(ranks, weights)
    for one in ranks:
        assert (one["steps"], one["clipped"]) == (STEPS, clipped)
    assert result.metrics["norm"] == ranks[0]["norm"]
    with result.checkpoint.as_directory() as folder:
        assert torch.load(f"{folder}/clipper.pt", weights_only=True)["steps"] == STEPS
