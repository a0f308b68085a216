"""FSDP2 on gloo where torchrun starts it, else one process on the same data; prints the weights."""

import json

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 1))
rank, ranks = 0, 1
if dist.is_torchelastic_launched():
    dist.init_process_group("gloo")
    rank, ranks = dist.get_rank(), dist.get_world_size()
    fully_shard(model, mesh=dist.device_mesh.init_device_mesh("cpu", (ranks,)))
optimizer = torch.optim.SGD(model.parameters(), 0.1)
for step in range(6):
    data = torch.randn(8, 4, generator=torch.Generator().manual_seed(step)) * (10.0 if step == 4 else 1.0)
    loss = model(data.chunk(ranks)[rank]).pow(2).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
whole = [p.full_tensor() if ranks > 1 else p for p in model.parameters()]
if rank == 0:
    print(json.dumps([p.detach().flatten().tolist() for p in whole]))
if ranks > 1:
    dist.destroy_process_group()
