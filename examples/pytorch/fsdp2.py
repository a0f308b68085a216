"""FSDP2 under torchrun: each rank holds a part of every gradient, and the norm is that of the whole model.

`attach` is the same line as on one device, called on every rank after `fully_shard`.

    torchrun --nproc-per-node 2 examples/pytorch/fsdp2.py
"""

import os

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import clipwise

device = "cuda" if torch.cuda.device_count() >= int(os.environ["LOCAL_WORLD_SIZE"]) else "cpu"
if device == "cuda":
    torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
dist.init_process_group("nccl" if device == "cuda" else "gloo")
rank = dist.get_rank()
mesh = init_device_mesh(device, (dist.get_world_size(),))

torch.manual_seed(0)  # the same weights on every rank
model = nn.Sequential(
    nn.Embedding(64, 32),
    *(nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True) for _ in range(2)),
    nn.Linear(32, 64),
    nn.LogSoftmax(-1),
).to(device)
for layer in model[1:3]:
    fully_shard(layer, mesh=mesh)
fully_shard(model, mesh=mesh)

optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
clipper = clipwise.torch.attach(optimizer, clipwise.clip_by_global_norm(0.5), model=model)

torch.manual_seed(rank)  # other data on each rank
for step in range(31):
    tokens = torch.randint(64, (16, 12), device=device)
    loss = nn.functional.nll_loss(model(tokens).flatten(0, 1), (63 - tokens).flatten())
    optimizer.zero_grad()
    loss.backward()
    shards = torch.stack([p.grad.to_local().norm() for p in model.parameters()]).norm()
    optimizer.step()  # one small all-reduce, then every rank clips by the same norm
    if step % 10 == 0:
        everywhere = [torch.zeros_like(shards) for _ in range(dist.get_world_size())]
        dist.all_gather(everywhere, shards)
        if rank == 0:
            parts = ", ".join(f"{part.item():.4f}" for part in everywhere)
            print(f"step {step:2}  loss {loss.item():.3f}  norms by rank {parts}; whole: {clipper.report}")

print(f"rank {rank}: clipped {clipper.clipped_steps} of {clipper.steps} steps", flush=True)
dist.barrier()  # all ranks are done before the first takes its group down
dist.destroy_process_group()
