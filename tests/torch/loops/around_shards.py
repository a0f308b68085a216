"""What is around the step of a model that lies over four ranks; each case also runs in one process."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable
from typing import Any, ClassVar

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module

import clipwise
from clipwise.errors import ClipwiseError
from clipwise.torch import QKClip
from tests.torch.loops.sharded import RANKS, Collectives, Net, Run, whole

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


UPDATES = clipwise.chain(
    clipwise.stable_adamw(0.8),
    clipwise.by_name(
        {"first.*": clipwise.Clip(0.9, per="unit", norm="rms"), "*": clipwise.clip_by_value(0.5)}
    ),
    clipwise.clip_by_norm(clipwise.thresholds.relative(0.3, 1.0)),
)


def updated(layout: str | None) -> dict[str, Any]:
    """What AdamW does is clipped after it, by what its second moment says, and relative to the weights."""
    run = Run(layout, GLOBAL)
    run.clipper.detach()
    run.optimizer = torch.optim.AdamW(run.model.parameters(), lr=0.02)
    run.clipper = clipwise.torch.attach(run.optimizer, GLOBAL, model=run.model, updates=UPDATES)
    reports = []
    for step in range(SHORT):
        run.step(step)
        report = run.clipper.updates.report
        reports.append([float(x) for x in (report.norm, report.norm_after, *report.tensor_norms)])
        reports[-1] += [float(part.clip_fraction) for part in report.parts.values()]
    return {"parameters": run.parameters(), "reports": reports}


class Muon(torch.optim.SGD):
    """By its name, and by group; what it does does not matter here."""


def normalised(layout: str | None) -> dict[str, Any]:
    """The first layer is left out of norm and clip, and NaN in it leaves the step out all the same.

    So does the mean of the losses of the ranks, in the step before.
    """
    run = Run(layout, GLOBAL)
    run.clipper.detach()
    first = list(run.model.first.parameters())
    rest = [p for p in run.model.parameters() if all(p is not one for one in first)]
    run.optimizer = Muon([{"params": first, "use_muon": True}, {"params": rest, "use_muon": False}], lr=0.02)
    loss = clipwise.Clip(2.0, action="skip", on="loss")
    clip = clipwise.chain(loss, clipwise.skip_spikes(), GLOBAL, clipwise.adagc(warmup=1))
    run.clipper = clipwise.torch.attach(run.optimizer, clip, model=run.model)

    def spoil(model: Net) -> None:
        if layout is None or dist.get_rank() == 1:
            local = getattr(model.first.weight.grad, "_local_tensor", model.first.weight.grad)
            local.fill_(math.nan)

    reports = []
    for step in range(SHORT):
        run.step(step, spoil if step == 3 else lambda model: None)
        report = run.clipper.report
        reports.append([report.normalised, *map(float, (report.norm, report.norm_after, report.skipped))])
    return {"parameters": run.parameters(), "reports": reports}


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
