"""Data-parallel training on gloo, started by torchrun; each rank prints a digest of its parameters."""

import hashlib

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

dist.init_process_group("gloo")
torch.manual_seed(0)
model = DistributedDataParallel(nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 1)))
optimizer = torch.optim.SGD(model.parameters(), 0.1)
torch.manual_seed(dist.get_rank())
for _ in range(5):
    loss = model(torch.randn(6, 4)).pow(2).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
sums = hashlib.sha256()
for p in model.parameters():
    sums.update(p.detach().numpy().tobytes())
print(f"digest {sums.hexdigest()}\n", end="", flush=True)
dist.destroy_process_group()
