"""Accelerate: attach to the prepared optimizer, and leave `accelerator.clip_grad_norm_` out of the loop.

Under `accelerator.accumulate` the accumulated gradient is clipped, once for each real step. What an
adaptive threshold remembers is saved with the rest.

    python examples/trainers/accelerate_loop.py
"""

import tempfile

import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import clipwise

torch.manual_seed(0)
accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
model = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 1))
x = torch.randn(2048, 8)
data = DataLoader(TensorDataset(x, x.prod(1, keepdim=True)), batch_size=32, shuffle=True)
model, optimizer, data = accelerator.prepare(model, torch.optim.AdamW(model.parameters(), lr=3e-3), data)
clipper = clipwise.torch.attach(optimizer, clipwise.autoclip(75), model=model)
accelerator.register_for_checkpointing(clipper)


def train_epoch() -> None:
    for inputs, targets in data:
        with accelerator.accumulate(model):
            accelerator.backward(nn.functional.mse_loss(model(inputs), targets))
            optimizer.step()  # clipped in every second batch, which makes the step
            optimizer.zero_grad()


with tempfile.TemporaryDirectory() as folder:
    for _ in range(3):
        train_epoch()
    print(
        f"{3 * len(data)} batches: {clipper.steps} steps, {clipper.clipped_steps} clipped; {clipper.report}"
    )
    accelerator.save_state(folder)
    train_epoch()
    print(f"one more epoch: {clipper.steps} steps")
    accelerator.load_state(folder)
    print(f"loaded: {clipper.steps} steps, {clipper.clipped_steps} clipped")
