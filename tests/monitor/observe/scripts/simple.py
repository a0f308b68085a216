"""One small training; prints a digest of its parameters.

Words: ``attach`` clips by clipwise itself, ``largest`` by torch and the largest entry, ``without`` hides what
clipwise needs, ``early`` clips by torch before there are gradients, ``twice`` trains in a child process too,
``leave`` ends without a word, ``fail`` with an exception.
"""

import hashlib
import multiprocessing
import os
import sys

import torch
from torch import nn

if "without" in sys.argv:
    sys.modules["array_api_compat"] = None


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.GRU(3, 4, batch_first=True)
        self.head = nn.Linear(4, 1)

    def forward(self, x):
        return self.head(self.rnn(x)[0][:, -1])


def train(steps=12):
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = Net()
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    if "attach" in sys.argv:
        import clipwise

        clipwise.torch.attach(optimizer, clipwise.clip_by_global_norm(0.05), model=model)
    for _ in range(steps):
        loss = model(torch.randn(8, 5, 3)).sub(1).pow(2).mean()
        optimizer.zero_grad()
        if "early" in sys.argv:
            nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
        loss.backward()
        if "largest" in sys.argv:
            nn.utils.clip_grad_norm_(model.parameters(), 1e-3, norm_type=float("inf"))
        optimizer.step()
    sums = hashlib.sha256()
    for p in model.parameters():
        sums.update(p.detach().numpy().tobytes())
    print(sums.hexdigest(), flush=True)


if __name__ == "__main__":
    train()
    if "twice" in sys.argv:
        child = multiprocessing.get_context("spawn").Process(target=train, args=(7,))
        child.start()
        child.join()
    if "leave" in sys.argv:  # before the recorder has written anything by itself
        os._exit(0)
    if "fail" in sys.argv:
        raise RuntimeError("out of luck")
