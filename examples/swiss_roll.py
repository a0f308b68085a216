"""Weight clipping beside the gradient penalty on the Swiss roll: figure 1b of the WGAN-GP paper.

A deep ReLU critic without batch normalisation learns to tell a Swiss roll from the same with Gaussian noise
of unit variance, its generator held fixed (Gulrajani et al. 2017, arXiv:1704.00028, section 2.3). With its
weights clipped to [-c, c] the gradients explode or vanish on their way through the layers, and many weights
stand at the bound; with the gradient penalty neither happens.

Clipped weights start inside the bound, so that what stands at it was taken there by training; with
``--start he`` they start as the others do, which for a small c is beyond it. Numbers are float64 and
RMSprop's epsilon next to nothing: gradients that vanish are small, not 0, and the critic learns.

    python examples/swiss_roll.py --seeds 3 --out swiss_roll.png
    python examples/swiss_roll.py --quick
"""

import argparse
import itertools
import math
import statistics
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import clipwise
import clipwise.torch

BOUNDS = (0.1, 0.01, 0.001)


def swiss_roll(count: int, generator: torch.Generator) -> Tensor:
    """Points of the roll in the plane, with a little noise, at the paper's scale."""
    turn = 1.5 * math.pi * (1 + 2 * torch.rand(count, generator=generator))
    roll = torch.stack([turn * turn.cos(), turn * turn.sin()], dim=1)
    return (roll + 0.25 * torch.randn(count, 2, generator=generator)) / 7.5


class Critic(nn.Module):
    """Linear layers with ReLU between them, one number a sample."""

    def __init__(self, layers: int, width: int) -> None:
        super().__init__()
        sizes = [2, *[width] * (layers - 1), 1]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(sizes))
        for layer in self.layers:
            nn.init.kaiming_normal_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.activations(x)[-1]

    def activations(self, x: Tensor) -> list[Tensor]:
        """What each layer gives, its ReLU not yet taken."""
        found = [self.layers[0](x)]
        for layer in self.layers[1:]:
            found.append(layer(found[-1].relu()))
        return found


def train(bound: float | None, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """A critic with weights clipped to a bound, or with the penalty (None), and what became of it."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    critic = Critic(options.layers, options.width).to(options.device, torch.float64)
    clipper = None
    if bound is None:
        optimizer: torch.optim.Optimizer = torch.optim.Adam(critic.parameters(), lr=1e-4, betas=(0.0, 0.9))
    else:
        if options.start == "inside":
            for layer in critic.layers:
                nn.init.uniform_(layer.weight, -bound / 2, bound / 2)
        optimizer = torch.optim.RMSprop(critic.parameters(), lr=bound / 100, eps=1e-30)
        clipper = clipwise.torch.attach(optimizer, weights=clipwise.clip_by_value(bound))
    for step in range(options.steps):
        real = swiss_roll(options.batch, generator).double()
        fake = (real + torch.randn(real.shape, generator=generator)).to(options.device)
        real = real.to(options.device)
        loss = critic(fake).mean() - critic(real).mean()
        if bound is None:
            loss = loss + clipwise.torch.gradient_penalty(critic, real, fake)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % max(1, options.steps // 4) == 0:
            where = f"seed {seed}, {name_of(bound)}: step {step} of {options.steps}"
            print(f"  {where}, loss {loss.item():.4g}", flush=True)
    weights = [layer.weight.detach().ravel() for layer in critic.layers]
    return {
        "norms": gradient_norms(critic, real, fake),
        "weights": torch.cat(weights).cpu(),
        "at_bound": None if clipper is None else float(clipper.weights.report.at_bound),
    }


def gradient_norms(critic: Critic, real: Tensor, fake: Tensor) -> list[float]:
    """The norm of the critic's gradient by each layer's output, the mean over samples."""
    activations = critic.activations(torch.cat([real, fake]))
    gradients = torch.autograd.grad(activations[-1].sum(), activations)
    return [float(gradient.norm(dim=1).mean()) for gradient in gradients]


def slope_of(norms: list[float]) -> float:
    """By how many decades the norm grows a layer, going back from the last layer but one to the first."""
    low, high = norms[-2], norms[0]
    if low == 0 or high == 0:
        return -math.inf
    return (math.log10(high) - math.log10(low)) / (len(norms) - 2)


def name_of(bound: float | None) -> str:
    return "penalty" if bound is None else f"c = {bound:g}"


def draw(found: dict[float | None, list[dict[str, Any]]], path: Path) -> None:
    """Norms by layer, a line a seed, and the histograms of the first seed's weights, as in the paper."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, *right) = plt.subplots(
        1, 3, figsize=(12, 3.8), width_ratios=(1.5, 1, 1), layout="constrained"
    )
    for (bound, results), colour in zip(found.items(), ("C3", "C1", "C4", "C2"), strict=True):
        for i, result in enumerate(results):
            norms = [norm if norm > 0 else math.nan for norm in result["norms"]]
            label = name_of(bound) if i == 0 else None
            left.semilogy(range(1, len(norms) + 1), norms, "o-", markersize=4, color=colour, label=label)
    left.set(xlabel="layer of the critic", ylabel="gradient norm", title="Gradient by a layer's output")
    left.legend()
    left.grid(alpha=0.3)
    for axes, bound, colour in zip(right, (0.01, None), ("C1", "C2"), strict=True):
        weights = found[bound][0]["weights"]
        end = bound or float(weights.abs().quantile(0.999))
        axes.hist(weights.clamp(-end, end).numpy(), bins=61, color=colour)
        axes.set(xlabel="weight", yticks=[], title=f"Weights, {name_of(bound)}")
    figure.savefig(path, dpi=110)
    print(f"picture: {path}")


def main(arguments: list[str] | None = None) -> dict[float | None, list[dict[str, Any]]]:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--layers", type=int, default=12, help="linear layers of the critic")
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument(
        "--start", choices=("inside", "he"), default="inside", help="of weights to be clipped"
    )
    parser.add_argument("--seeds", type=int, default=1, help="how many, from 0")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, help="where to write the picture")
    parser.add_argument("--quick", action="store_true", help="5 layers of 64: to see that it runs")
    options = parser.parse_args(arguments)
    if options.quick:
        options.layers, options.width, options.batch, options.steps = 5, 64, 32, 100
    found = {
        bound: [train(bound, seed, options) for seed in range(options.seeds)] for bound in (*BOUNDS, None)
    }
    print(f"{'':10}{'first layer':>14}{'last but one':>14}{'decades a layer':>20}{'at the bound':>14}")
    for bound, results in found.items():
        first, last = (statistics.median(result["norms"][i] for result in results) for i in (0, -2))
        slopes = sorted(slope_of(result["norms"]) for result in results)
        shown = f"{slopes[0]:.2f}" if len(slopes) == 1 else f"{slopes[0]:.2f} to {slopes[-1]:.2f}"
        shares = [result["at_bound"] for result in results]
        share = "" if bound is None else f"{statistics.median(shares):.0%}"
        print(f"{name_of(bound):10}{first:14.3g}{last:14.3g}{shown:>20}{share:>14}")
    if options.out is not None:
        draw(found, options.out)
    return found


if __name__ == "__main__":
    main()
