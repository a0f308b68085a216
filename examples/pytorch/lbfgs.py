"""LBFGS, which evaluates a closure several times a step: gradients are clipped after each evaluation.

A decay is fitted by a curve that grows at first, so the first gradient is huge. Unclipped, its
difference to the next one spoils the estimate of the curvature. Keep the threshold wide: clipped
gradients tell LBFGS no curvature.

    python examples/pytorch/lbfgs.py
"""

import torch

import clipwise

torch.manual_seed(0)
time = torch.linspace(0, 10, 100)
measured = 3.0 * torch.exp(-0.8 * time) + 0.01 * torch.randn(100)


def fit(threshold: float) -> None:
    amplitude, rate = torch.tensor(1.0, requires_grad=True), torch.tensor(0.5, requires_grad=True)
    optimizer = torch.optim.LBFGS([amplitude, rate], max_iter=20)
    clipper = clipwise.torch.attach(optimizer, clipwise.clip_by_global_norm(threshold))
    norms = []
    clipper.follow(
        lambda clipper, report, loss: norms.append(float(report.norm))
    )  # called after each evaluation

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = (amplitude * torch.exp(rate * time) - measured).square().mean()
        loss.backward()
        return loss

    for _ in range(10):
        optimizer.step(closure)
    print(
        f"threshold {threshold:g}: loss {closure().item():.4f},"
        f" amplitude {amplitude.item():.2f}, rate {rate.item():.2f};"
        f" clipped {clipper.clipped_steps} of {clipper.steps} evaluations, largest norm {max(norms):.3g}"
    )


fit(float("inf"))  # only measured
fit(100.0)
