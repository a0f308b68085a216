"""DP-SGD: the gradient of each example is clipped, and noise is added to the sum.

clipwise clips and adds the noise; Opacus' accountant says what privacy that gives. Each example is in a batch
with the same probability, independently of the others: that is what the accountant assumes.

    pip install opacus
    python examples/pytorch/dp_sgd.py
"""

import torch
from opacus.accountants import RDPAccountant
from torch import nn

import clipwise

EXAMPLES, BATCH, STEPS, NOISE, DELTA = 20_000, 500, 80, 1.0, 1e-5

torch.manual_seed(0)
inputs = torch.randn(EXAMPLES, 16)
labels = (inputs[:, :4].sum(1) > 0).long()
model = nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 2))
optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
loss_fn = nn.CrossEntropyLoss(reduction="none")  # one loss for each example

step = clipwise.torch.per_example(
    model, clipwise.clip_by_global_norm(1.0), batch_size=BATCH, noise_multiplier=NOISE
)
accountant, rate = RDPAccountant(), BATCH / EXAMPLES
for _ in range(STEPS):
    chosen = torch.rand(EXAMPLES) < rate
    optimizer.zero_grad()
    step.backward(loss_fn, inputs[chosen], labels[chosen])
    optimizer.step()
    accountant.step(noise_multiplier=NOISE, sample_rate=rate)

x = torch.randn(2000, 16)
right = (model(x).argmax(1) == (x[:, :4].sum(1) > 0)).double().mean()
print(f"last step: {step.report}")
print(f"one example moves the mean gradient by at most {step.sensitivity():g}")
print(f"held-out accuracy {right.item():.1%} at epsilon {accountant.get_epsilon(DELTA):.2f}, delta {DELTA:g}")
