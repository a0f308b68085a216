"""A threshold that changes during training: wide at first, narrow later.

`thresholds.linear`, `cosine` and `exponential` go from a start to a stop; `schedule` takes any function
of the step.

    python examples/pytorch/scheduled_threshold.py
"""

import torch
from torch import nn

import clipwise
from clipwise import thresholds

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
clip = clipwise.clip_by_global_norm(thresholds.cosine(5.0, 0.5, steps=80))
clipper = clipwise.torch.attach(optimizer, clip, model=model)

for step in range(101):
    x = torch.randn(32, 16)
    loss = nn.functional.mse_loss(model(x), 10 * x[:, :1])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 20 == 0:
        report = clipper.report
        print(
            f"step {step:3}  loss {loss.item():6.2f}  threshold {float(report.threshold):.2f}"
            f"  norm {float(report.norm):.2f} -> {float(report.norm_after):.2f}"
        )
