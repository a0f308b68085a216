"""A training script without a word of clipwise in it, to be observed and clipped from outside.

Some batches have inputs in the wrong unit, and throw the weights about. Observing records every norm and
recommends a threshold; `--clip` then clips, and the script stays as it is.

    clipwise observe --run first -- examples/pytorch/unmodified.py
    clipwise observe --run second --clip "clip_by_global_norm(8)" -- examples/pytorch/unmodified.py
"""

import torch
from torch import nn

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(16, 64), nn.Tanh(), nn.Linear(64, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.02)

for step in range(300):
    x = torch.randn(32, 16)
    y = x[:, :4].sum(1, keepdim=True)
    if step % 60 == 40:
        y = 100 * y  # the wrong unit
    loss = nn.functional.mse_loss(model(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

with torch.no_grad():
    x = torch.randn(1000, 16)
    print(f"held-out loss {nn.functional.mse_loss(model(x), x[:, :4].sum(1, keepdim=True)).item():.3f}")
