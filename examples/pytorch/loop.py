"""A training loop in PyTorch whose gradients are clipped by their global norm.

A character LSTM learns the text of this file. One line, `attach`, clips before every step of the
optimizer.

    python examples/pytorch/loop.py
"""

from pathlib import Path

import torch
from torch import nn

import clipwise


class CharLSTM(nn.Module):
    def __init__(self, hidden: int = 64) -> None:
        super().__init__()
        self.embedding = nn.Embedding(256, 32)
        self.lstm = nn.LSTM(32, hidden, batch_first=True)
        self.head = nn.Linear(hidden, 256)

    def forward(self, text: torch.Tensor) -> torch.Tensor:
        return self.head(self.lstm(self.embedding(text))[0])


torch.manual_seed(0)
text = torch.tensor(list(Path(__file__).read_bytes()))
model = CharLSTM()
optimizer = torch.optim.SGD(model.parameters(), lr=5.0)
clipper = clipwise.torch.attach(optimizer, clipwise.clip_by_global_norm(0.4), model=model)

for step in range(150):
    chunks = torch.stack([text[i : i + 49] for i in torch.randint(len(text) - 49, (16,))])
    logits = model(chunks[:, :-1])
    loss = nn.functional.cross_entropy(logits.flatten(0, 1), chunks[:, 1:].flatten())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()  # clipped just before
    if step % 30 == 0:
        print(f"step {step:3}  loss {loss.item():.2f}  {clipper.report}")

print(f"loss {loss.item():.2f}, clipped {clipper.clipped_steps} of {clipper.steps} steps")
