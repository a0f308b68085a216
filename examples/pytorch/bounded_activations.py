"""Activations bounded by PACT: each bound is a parameter that training moves.

`clip_activations` bounds modules of a model by their names and counts how often each is at its bound.
The model itself is not changed.

    python examples/pytorch/bounded_activations.py
"""

import torch
from torch import nn

import clipwise
from clipwise.torch import PACT

torch.manual_seed(0)
model = nn.Sequential()
model.add_module("first", nn.Linear(20, 64))
model.add_module("first_act", nn.ReLU())
model.add_module("second", nn.Linear(64, 64))
model.add_module("second_act", nn.ReLU())
model.add_module("head", nn.Linear(64, 3))
directions = torch.randn(20, 3)

with clipwise.torch.clip_activations(model, {"*_act": PACT(3.0)}) as clipped:
    optimizer = torch.optim.SGD(
        [
            {"params": model.parameters()},
            {"params": clipped.parameters(), "weight_decay": 1e-2},  # keeps the learned bounds small
        ],
        lr=0.1,
    )
    for step in range(301):
        x = torch.randn(64, 20)
        if step % 10 == 0:
            x[0] *= 50  # an outlier
        loss = nn.functional.cross_entropy(model(x), (x @ directions).argmax(1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 100 == 0:
            bounds = ", ".join(f"{bound.item():.2f}" for bound in clipped.parameters())
            print(f"step {step:3}  loss {loss.item():.3f}  bounds {bounds}")
    for name, counted in clipped.report().items():
        print(f"{name}: {counted.high:.1%} of its outputs at the bound")
    largest = []
    handle = model.first_act.register_forward_hook(
        lambda module, inputs, out: largest.append(out.max().item())
    )
    model(1000 * torch.randn(64, 20))
    handle.remove()
    print(f"an input 1000 times too large: activations up to {largest[0]:.2f}")
