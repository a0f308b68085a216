"""What is around the step of a model that lies over four ranks; each case also runs in one process."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FullyShardedDataParallel, fully_shard
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.distributed.tensor import DTensor, Partial
from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grad
from torch.optim.optimizer import register_optimizer_step_pre_hook

import clipwise
from clipwise.errors import ClipwiseError
from clipwise.monitor.observe.bootstrap import SETTINGS
from clipwise.monitor.observe.bootstrap.losses import Losses
from clipwise.monitor.observe.bootstrap.own_clips import OwnClips
from clipwise.monitor.observe.settings import Settings
from clipwise.monitor.rules import LossNonfinite
from clipwise.torch import QKClip
from clipwise.torch.whole_norms import WholeNorms
from tests.torch.loops.sharded import LAYOUTS, RANKS, Collectives, Net, Run, backward, whole

GLOBAL = clipwise.clip_by_global_norm(0.5)
SHORT = 6


def on_ranks() -> bool:
    return dist.is_initialized()


def error_of(function: Callable[[], Any]) -> str:
    try:
        function()
    except ClipwiseError as error:
        return str(error)
    return ""


# Clips of the weights.

WEIGHTS: dict[str, Any] = {
    "value": clipwise.clip_by_value(0.25),
    "range": clipwise.Clip((-0.1, 0.3), per="element"),
    "units": clipwise.Clip(0.5, per="unit"),
    "tensors": clipwise.by_name({"first.*": clipwise.clip_by_norm(0.8), "*": clipwise.clip_by_value(0.2)}),
    "relative": clipwise.chain(clipwise.clip_by_global_norm(2.0), clipwise.clip_by_value(0.3)),
}
SENT = {"value": 2, "range": 2, "units": 1, "tensors": 3, "relative": 3}
"""Collectives of a step for the weights alone."""
WEIGHT_CASES = [*(("fsdp", name) for name in WEIGHTS), ("fsdp_tp", "value"), ("hsdp", "tensors")]


def bounded(layout: str | None, name: str) -> dict[str, Any]:
    run = Run(layout, GLOBAL, weights=WEIGHTS[name])
    reports = []
    for step in range(SHORT):
        run.step(step)
        report = run.clipper.weights.report
        reports.append(
            [float(x) for x in (report.norm, report.norm_after, report.clip_fraction, report.at_bound)]
        )
    sent = {count - 1 for count in run.collectives[1:]}
    return {"parameters": run.parameters(), "reports": reports, "sent": sent}


def bounded_in_turn(layout: str | None) -> dict[str, Any]:
    """Two optimizers that were attached together: after the step of each its own weights are bounded."""
    run = Run(layout, GLOBAL)
    run.clipper.detach()
    halves = [run.model.first.parameters(), [run.model.plain, *run.model.last.parameters()]]
    optimizers = [torch.optim.SGD(half, lr=0.1) for half in halves]
    clipper = clipwise.torch.attach(optimizers, GLOBAL, model=run.model, weights=WEIGHTS["value"])
    reports = []
    for step in range(SHORT):
        run.backward(step)
        for one in optimizers:
            one.step()
            reports.append([float(clipper.weights.report.norm), float(clipper.weights.report.at_bound)])
    return {"parameters": run.parameters(), "reports": reports}


def bounded_stages(alone: bool) -> dict[str, Any]:
    """Each rank has a layer of its own, and their weights are bounded together."""
    layers = {str(place): nn.Linear(3, 2, bias=False) for place in range(RANKS)}
    for place, layer in enumerate(layers.values()):
        torch.manual_seed(place)
        nn.init.normal_(layer.weight)
    own = nn.ModuleDict(layers if alone else {str(dist.get_rank()): layers[str(dist.get_rank())]})
    optimizer = torch.optim.SGD(own.parameters(), lr=0.1)
    groups = None if alone else {"*": dist.group.WORLD}
    weights = clipwise.chain(clipwise.clip_by_global_norm(3.0), clipwise.clip_by_value(0.8))
    clipper = clipwise.torch.attach(optimizer, model=own, weights=weights, process_groups=groups)
    reports = []
    for _ in range(2):
        for p in own.parameters():
            p.grad = torch.full_like(p, 0.5)
        optimizer.step()
        report = clipper.weights.report
        reports.append(
            [float(x) for x in (report.norm, report.norm_after, report.clip_fraction, report.at_bound)]
        )
    return {"parameters": [p.detach().clone() for p in own.parameters()], "reports": reports}


# Steps that somebody wants left out, and thresholds of single entries.


def vetoed(layout: str | None, ask: Callable[[Any], bool]) -> dict[str, Any]:
    """The third step is left out, since one judge says so."""
    run = Run(layout, GLOBAL)
    heard = []

    def judge(clipper: Any, norm: float, loss: float | None) -> bool:
        heard.append((norm, loss))
        return clipper.steps == 2 and ask(clipper)

    run.clipper.veto(judge)
    for step in range(SHORT):
        run.step(step)
    skipped = [bool(report["skipped"]) for report in run.reports]
    return {"parameters": run.parameters(), "heard": heard, "skipped": skipped, "sent": run.collectives}


def veto_of_one() -> str:
    """Only the second rank has a judge."""
    run = Run("fsdp", GLOBAL)
    if dist.get_rank() == 1:
        run.clipper.veto(lambda *told: True)
    return error_of(lambda: run.step(2))


def of_entries(layout: str | None) -> dict[str, Any]:
    """In the first step the second rank has no gradient of a weight, of which the others have some."""

    def lose(model: Net) -> None:
        if run.optimizer.state:
            return
        if layout == "fsdp" and dist.get_rank() == 1:
            model.first.weight.grad = None
        elif layout is None:
            model.first.weight.grad[2:4] = 0.0

    run = Run(layout, clipwise.Clip(clipwise.thresholds.relative(0.05), per="element"))
    for step in range(2, SHORT):
        run.step(step, lose)
    keys = ("norm", "norm_after", "threshold", "clip_fraction")
    reports = [[report[key] for key in keys] for report in run.reports]
    return {"parameters": run.parameters(), "reports": reports, "sent": run.collectives}


@dataclasses.dataclass(frozen=True)
class Remembering(clipwise.thresholds.relative):
    remembers: ClassVar[bool] = True


def dist_rank() -> int:
    return dist.get_rank() if on_ranks() else 0


def gradients_in_place_of_parameters() -> list[str]:
    run = Run("fsdp", GLOBAL)
    run.backward(2)
    gradients = [p.grad for p in run.model.parameters()]
    return [
        error_of(lambda: clipwise.torch.clip_grads_with_norm_(gradients, 0.1, torch.tensor(2.0))),
        error_of(lambda: clipwise.torch.clip_grad_norm_(gradients, 0.1)),
        error_of(lambda: clipwise.torch.clip_(gradients, GLOBAL)),
    ]


# QK-Clip.

SEEN = [
    [400.0, 60.0, 100.0, -5.0],
    [50.0, 200.0, -math.inf, 1.0],
    [3.0, 3.0, 800.0, 3.0],
    [1.0, 1.0, 1.0, 125.0],
]
"""The largest logits of four heads, by rank."""


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.q, self.k = nn.Linear(6, 8), nn.Linear(6, 8)
        self.both = nn.MultiheadAttention(8, 4)
        nn.init.normal_(self.both.in_proj_bias)
        self.observing: QKClip | None = None

    def forward(self, x: torch.Tensor) -> None:
        """All projections are here now, and so are the logits of all heads."""
        assert self.observing is not None
        self.observing.observe_inputs(x)


def qk(layout: str | None) -> dict[str, Any]:
    model = Attention()
    if layout == "fsdp_tp":
        mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "tensor"))
        parallelize_module(model, mesh["tensor"], {"q": ColwiseParallel(), "k": ColwiseParallel()})
        fully_shard(model, mesh=mesh["data"])
    elif layout is not None:
        fully_shard(model, mesh=init_device_mesh("cpu", (RANKS,)))
    clips = [QKClip(model.q, model.k, heads=4, alpha=0.3), QKClip(model.both)]
    for seen in [SEEN[dist_rank()]] if layout else SEEN:
        for clip in clips:
            clip.observe_logits(torch.tensor(seen))
    with Collectives() if layout else contextlib.nullcontext() as collectives:
        gamma = QKClip.step_together_(clips)
    refused = []
    model.observing = clips[0]
    if layout != "fsdp_tp":
        model(torch.linspace(-3, 3, 24).reshape(1, 4, 6))
    if layout == "fsdp":
        refused.append(error_of(clips[0].step_))
        model.reshard()
    if layout:
        refused.append(error_of(lambda: clips[0].observe_inputs(torch.ones(1, 2, 6))))
    return {
        "weights": {name: whole(p).detach() for name, p in model.named_parameters()},
        "gamma": gamma,
        "largest": clips[0].largest,
        "sent": collectives.count if layout else None,
        "refused": refused,
    }


# Recordings.


def monitored(layout: str | None, folder: str) -> list[int]:
    """The loss of one rank is NaN in the third step: it is left out on all."""
    run = Run(layout, GLOBAL)
    path = f"{folder}/{layout}.db"
    rules = [LossNonfinite(actions=("record", "skip"))]
    os.environ |= {"RANK": str(dist_rank()), "CLIPWISE_RUN": "monitored"}
    with clipwise.Monitor(path, run="run", layers_every=1, rules=rules) as monitor:
        monitor.attach(run.clipper)
        for step in range(SHORT):
            loss = run.backward(step)
            run.clipper.observe(loss * math.nan if step == 2 and dist_rank() == 0 else loss)
            with Collectives() if layout else contextlib.nullcontext() as collectives:
                run.optimizer.step()
            if layout:
                run.collectives.append(collectives.count)
    del os.environ["CLIPWISE_RUN"]
    return run.collectives


@contextlib.contextmanager
def observing(folder: str, name: str, clip: str | None = None):
    """What ``clipwise observe`` puts into a process, in this one."""
    from clipwise.monitor.observe import recording
    from clipwise.monitor.observe.steps import Observer

    claims = Path(folder) / f"{name}-claims-{dist_rank()}"
    claims.mkdir()
    settings = Settings(f"{folder}/{name}.db", str(claims), clip, layers_every=1)
    os.environ |= {SETTINGS: settings.environment("", "")[SETTINGS], "CLIPWISE_RUN": name}
    os.environ |= {"CLIPWISE_RUN_NAME": name}
    said: list[str] = []
    clips = OwnClips()
    observer = Observer(Losses(), clips, said.append)
    leave = os._exit
    kept = [(module, dict(vars(module))) for module in (nn.utils, clip_grad)]
    clips.listen()
    hook = register_optimizer_step_pre_hook(observer.before_step)
    try:
        yield said
    finally:
        hook.remove()
        for module, names in kept:
            vars(module).update(names)
        for monitor in recording._here:
            monitor.close()
        recording._here.clear()
        os._exit = leave
        for key in (SETTINGS, "CLIPWISE_RUN", "CLIPWISE_RUN_NAME"):
            del os.environ[key]


def observed(layout: str | None, folder: str, clip: str | None = None, lost: bool = False) -> dict[str, Any]:
    """A loop without a clip of its own, measured or clipped from outside."""
    run = Run(layout, GLOBAL)
    run.clipper.detach()
    name = f"{layout}-{'clip' if clip else 'norms'}"
    sent = []
    with observing(folder, name, clip) as said:
        for step in range(SHORT):
            run.backward(step)
            if lost and step == SHORT - 1 and dist_rank() == 1:
                run.model.zero_grad()  # of a rank without gradients, which takes part
            with Collectives() if layout else contextlib.nullcontext() as collectives:
                run.optimizer.step()
            sent.append(collectives.count if layout else 0)
    return {"parameters": run.parameters(), "said": said, "sent": sent}


def observed_clipping(layout: str | None, folder: str) -> list[str]:
    """A loop that clips by torch's own function, and is measured from outside."""
    model = Net()
    part = LAYOUTS[layout](model) if layout else (0, 1)
    every = [*model.first.parameters(), *model.last.parameters()]
    optimizer = torch.optim.SGD(every, lr=0.1)
    with observing(folder, f"{layout}-own") as said:
        for step in range(SHORT):
            backward(model, step, *part)
            nn.utils.clip_grad_norm_(every, 0.5)
            optimizer.step()
    return said


def norms_of_partial_gradients() -> str:
    run = Run("fsdp", GLOBAL)
    run.backward(2)
    bias = run.model.last.bias
    bias.grad = DTensor.from_local(torch.ones(3), bias.device_mesh, [Partial()])
    return error_of(lambda: WholeNorms(dict(run.model.named_parameters())).read(2.0))


# Checkpoints.

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


def flat_from_outside(folder: str) -> list[str]:
    model = FullyShardedDataParallel(Net(), use_orig_params=True, device_id=torch.device("cpu"))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with observing(folder, "flat", "clip_by_global_norm(1.0)") as said:
        backward(model, 2, dist.get_rank(), RANKS)
        optimizer.step()
    return said


def on_each_rank(folder: str) -> dict[Any, Any]:
    found: dict[Any, Any] = {("weights", *case): bounded(*case) for case in WEIGHT_CASES}
    found["in turn"] = bounded_in_turn("fsdp")
    found["stages"] = bounded_stages(alone=False)
    found["veto"] = vetoed("fsdp", lambda clipper: dist.get_rank() == 3)
    found["veto of one"] = veto_of_one()
    found["entries"] = of_entries("fsdp")
    found["entries refused"] = error_of(lambda: Run("fsdp", clipwise.Clip(Remembering(), per="element")))
    found["gradients"] = gradients_in_place_of_parameters()
    for layout in ("fsdp", "fsdp_tp"):
        found["qk", layout] = qk(layout)
    found["monitor"] = monitored("fsdp", folder)
    found["observed"] = observed("fsdp", folder, lost=True)
    found["clipped"] = observed("fsdp", folder, clip="clip_by_global_norm(0.5)")
    found["partial"] = norms_of_partial_gradients()
    found["own"] = observed_clipping("fsdp", folder)
    found["checkpoint"] = saved_and_resumed(folder)
    found["offloaded"] = offloaded()
    found["zero"] = zero(RANKS)
    found["flat"] = flat_from_outside(folder)
    found["seconds"] = sum(os.times()[:2])
    return found
