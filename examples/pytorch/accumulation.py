"""Gradient accumulation: the sum over the micro-batches is clipped, once for each real step.

Clipping each micro-batch would be another algorithm. Here four micro-batches of 16 give the norm, and
the step, of one batch of 64.

    python examples/pytorch/accumulation.py
"""

import copy

import torch
from torch import nn

import clipwise

MICRO_BATCHES = 4

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(16, 64), nn.Tanh(), nn.Linear(64, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
clipper = clipwise.torch.attach(optimizer, clipwise.clip_by_global_norm(0.5), model=model)

whole = copy.deepcopy(model)  # the same model, trained with one batch a step
whole_optimizer = torch.optim.SGD(whole.parameters(), lr=0.1)
whole_clipper = clipwise.torch.attach(whole_optimizer, clipwise.clip_by_global_norm(0.5), model=whole)

for step in range(20):
    x = torch.randn(64, 16)
    y = x.square().sum(1, keepdim=True)

    optimizer.zero_grad()
    for part_x, part_y in zip(x.chunk(MICRO_BATCHES), y.chunk(MICRO_BATCHES), strict=True):
        loss = nn.functional.mse_loss(model(part_x), part_y) / MICRO_BATCHES
        loss.backward()
    optimizer.step()  # clipped here, once

    whole_optimizer.zero_grad()
    nn.functional.mse_loss(whole(x), y).backward()
    whole_optimizer.step()

    if step % 5 == 0:
        print(f"step {step:2}  {clipper.report}  one batch: norm {float(whole_clipper.report.norm):.4g}")

apart = max((a - b).abs().max().item() for a, b in zip(model.parameters(), whole.parameters(), strict=True))
print(f"{20 * MICRO_BATCHES} backward passes, {clipper.steps} steps, {clipper.clipped_steps} clipped")
print(f"largest difference to one batch a step: {apart:.1e}")
