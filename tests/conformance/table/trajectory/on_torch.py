"""The problem in PyTorch, its weights as ``(out, in)``: what the others are compared with."""

import torch

import clipwise

from . import problem


def train(clip, dtype: str, follows_loss: bool = False):
    kind = getattr(torch, dtype)
    parameters = {k: torch.nn.Parameter(torch.tensor(w.T, dtype=kind)) for k, w in problem.weights().items()}
    optimizer = torch.optim.SGD(list(parameters.items()), problem.RATE)
    with clipwise.torch.attach(optimizer, clip) as clipper:
        for x, y in problem.batches():
            optimizer.zero_grad()
            weights = {name: p.T if p.ndim > 1 else p for name, p in parameters.items()}
            data = (torch.tensor(array, dtype=kind) for array in (x, y))
            loss = problem.loss(weights, *data, torch.tanh, torch.sigmoid, torch.mean)
            loss.backward()
            if follows_loss:
                clipper.observe(loss)
            optimizer.step()
            now = {name: p.detach().numpy().T.copy() for name, p in parameters.items()}
            yield float(clipper.report.threshold), now, problem.held(clipper.report)
