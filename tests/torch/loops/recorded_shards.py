"""Recordings of models that lie over four ranks, by a `Monitor` and from outside."""

from __future__ import annotations

import contextlib
import math
import os
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.distributed.tensor import DTensor, Partial
from torch.nn.utils import clip_grad
from torch.optim.optimizer import register_optimizer_step_pre_hook

import clipwise
from clipwise.monitor.observe.bootstrap import SETTINGS
from clipwise.monitor.observe.bootstrap.losses import Losses
from clipwise.monitor.observe.bootstrap.own_clips import OwnClips
from clipwise.monitor.observe.settings import Settings
from clipwise.monitor.rules import LossNonfinite
from clipwise.torch.whole_norms import WholeNorms
from tests.torch.loops.around_shards import GLOBAL, SHORT, dist_rank, error_of
from tests.torch.loops.sharded import LAYOUTS, RANKS, Collectives, Net, Run, backward


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
    losses = Losses()
    clips = OwnClips(losses)
    observer = Observer(losses, clips, said.append)
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


def flat_from_outside(folder: str) -> list[str]:
    model = FullyShardedDataParallel(Net(), use_orig_params=True, device_id=torch.device("cpu"))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with observing(folder, "flat", "clip_by_global_norm(1.0)") as said:
        backward(model, 2, dist.get_rank(), RANKS)
        optimizer.step()
    return said
