"""Checkpoints of models that lie over four ranks, gradients on the host, and ZeRO-1."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import (
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, fully_shard
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.nn.parallel import DistributedDataParallel

import clipwise
from tests.thresholds.oracles import LOSSES
from tests.torch.loops.around_shards import SHORT, dist_rank, error_of
from tests.torch.loops.sharded import RANKS, Net, backward, whole

SAVED_AT, LAST = 7, 16
ADAPTIVE = clipwise.chain(
    clipwise.Clip(clipwise.thresholds.mean(1.2, decay=0.8), per="unit"),
    clipwise.adagc(warmup=3),
    clipwise.autoclip(60),
    clipwise.Clip(clipwise.thresholds.reduce_on_instability(0.5)),
)


class Resumable:
    """A training that can be saved and go on, over all ranks, over two of them, or in one process."""

    def __init__(self, ranks: int = 1, group: Any = None) -> None:
        self.model, self.ranks, self.group = Net(), ranks, group
        if ranks > 1:
            mesh = DeviceMesh.from_group(group, "cpu")
            fully_shard(self.model, mesh=mesh, ignored_params={self.model.plain})
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.02)
        self.clipper = clipwise.torch.attach(
            self.optimizer, ADAPTIVE, model=self.model, weights=clipwise.clip_by_value(0.4)
        )

    def train(self, start: int, end: int) -> None:
        for step in range(start, end):
            loss = backward(self.model, step, dist.get_rank() if self.ranks > 1 else 0, self.ranks)
            if self.ranks > 1:
                dist.all_reduce(self.model.plain.grad, group=self.group)
                self.model.plain.grad /= self.ranks
            self.clipper.observe(loss)
            self.optimizer.step()

    def state(self) -> dict[str, Any]:
        return {
            "model": get_model_state_dict(self.model),
            "optimizer": get_optimizer_state_dict(self.model, self.optimizer),
            "clipper": self.clipper,
        }

    def save(self, folder: str) -> None:
        dcp.save(self.state(), checkpoint_id=folder, process_group=self.group)

    def load(self, folder: str) -> None:
        state = self.state()
        dcp.load(state, checkpoint_id=folder, process_group=self.group)
        set_model_state_dict(self.model, state["model"])
        set_optimizer_state_dict(self.model, self.optimizer, state["optimizer"])

    def now(self) -> dict[str, Any]:
        return {
            "parameters": [whole(p).detach().clone() for p in self.model.parameters()],
            "state": self.clipper.state_dict(),
        }


def saved_and_resumed(folder: str) -> dict[str, Any]:
    first = Resumable(RANKS, dist.group.WORLD)
    first.train(0, SAVED_AT)
    first.save(f"{folder}/checkpoint")
    if dist.get_rank() == 0:
        torch.save(first.clipper.state_dict(), f"{folder}/clipper.pt")
    two = dist.new_group([0, 1])
    found = {"saved": first.now()}
    if dist.get_rank() < 2:
        second = Resumable(2, two)
        second.load(f"{folder}/checkpoint")
        second.train(SAVED_AT, LAST)
        found["two"] = second.now()
    return found


# Gradients on the host, and what else cuts an optimizer or a model into pieces.


def offloaded() -> dict[str, Any]:
    model = Net()
    policy = CPUOffloadPolicy(pin_memory=False)
    fully_shard(model, mesh=init_device_mesh("cpu", (RANKS,)), offload_policy=policy)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    clipper = clipwise.torch.attach(optimizer, clipwise.adagc(warmup=3), model=model)
    for step in range(SHORT):
        backward(model, step, dist.get_rank(), RANKS)
        optimizer.step()
    return {"parameters": [whole(p).detach() for p in model.parameters()], "norm": float(clipper.report.norm)}


class OfTheLoss(clipwise.thresholds.schedule):
    """A threshold that is a multiple of the loss."""

    needs: ClassVar[frozenset[str]] = frozenset({"loss"})

    def update(self, xp: Any, state: Any, seen: Any) -> Any:
        return 0.5 * seen.loss, state


def replicas(parts: int) -> dict[str, Any]:
    """DDP with a threshold that follows the loss, of which each rank has its own."""
    net: Any = Net()
    clip = clipwise.Clip(OfTheLoss(lambda step: step))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.02)
    clipper = clipwise.torch.attach(optimizer, clip, model=net)
    model = DistributedDataParallel(net) if parts > 1 else net  # made after the clipper, too
    thresholds, losses = [], []
    for step in range(SHORT):
        losses.append(float(backward(model, step, dist_rank(), parts)))
        clipper.observe(losses[-1])
        optimizer.step()
        thresholds.append(float(clipper.report.threshold))
    found = {"parameters": [p.detach().clone() for p in net.parameters()]}
    return found | {"thresholds": thresholds, "losses": losses}


def own_losses(rank: int) -> list[float]:
    """Losses of one of four ranks, whose mean over them is `LOSSES`: those of the first two swing."""
    swing = {0: 30.0, 1: -30.0}.get(rank, 0.0)
    return [loss + swing * (-1) ** step for step, loss in enumerate(LOSSES)]


def replicas_that_skip(parts: int) -> dict[str, Any]:
    """DDP whose steps are left out by their loss: by the mean, since each rank has its own."""
    net: Any = Net()
    model = DistributedDataParallel(net) if parts > 1 else net
    optimizer = torch.optim.SGD(net.parameters(), lr=0.02, momentum=0.9)
    clip = clipwise.skip_spikes(4.0, window=8, patience=2, on="loss")
    clipper = clipwise.torch.attach(optimizer, clip, model=net)
    skipped = []
    for step, loss in enumerate(LOSSES if parts == 1 else own_losses(dist_rank())):
        backward(model, step, dist_rank(), parts)
        clipper.observe(loss)
        optimizer.step()
        skipped.append(bool(clipper.report.skipped))
    return {"parameters": [p.detach().clone() for p in net.parameters()], "skipped": skipped}


def replicas_of_which_one_observes() -> str:
    net = Net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.02)
    clipper = clipwise.torch.attach(optimizer, clipwise.auto(), model=net)
    model = DistributedDataParallel(net)
    backward(model, 0, dist_rank(), RANKS)
    if dist_rank() == 0:
        clipper.observe(1.0)
    return error_of(optimizer.step)


def zero(parts: int) -> dict[str, Any]:
    """ZeRO-1: each rank's optimizer holds a part of the parameters, the gradients are those of all."""
    model: Any = Net()
    if parts > 1:
        net, model = model, DistributedDataParallel(model)
        optimizer: Any = ZeroRedundancyOptimizer(
            net.parameters(), torch.optim.SGD, lr=0.02, momentum=0.9, parameters_as_bucket_view=True
        )
    else:
        net, optimizer = model, torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    weights = clipwise.clip_by_value(0.4)
    clipper = clipwise.torch.attach(optimizer, clipwise.adagc(warmup=3), model=net, weights=weights)
    norms = []
    for step in range(SHORT):
        backward(model, step, dist_rank(), parts)
        if step == 3:
            net.first.bias.grad.fill_(math.nan)
        optimizer.step()
        norms.append(float(clipper.report.norm))
    return {
        "parameters": [p.detach().clone() for p in net.parameters()],
        "norms": norms,
        "skipped": clipper.skipped_steps,
    }
