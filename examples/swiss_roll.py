"""Weight clipping beside the gradient penalty on the Swiss roll: figure 1b of the WGAN-GP paper.

A deep ReLU critic without batch normalisation learns to tell a Swiss roll from the same with Gaussian noise
of unit variance, its generator held fixed (Gulrajani et al. 2017, arXiv:1704.00028, section 2.3). With its
weights clipped to [-c, c] the gradients explode or vanish on their way through the layers, and many weights
stand at the bound; with the gradient penalty neither happens. The paper trains to optimality, the defaults
here make 100 steps: docs/weights.md says what that does and does not show.

    python examples/swiss_roll.py                     # prints the numbers
    python examples/swiss_roll.py --out swiss_roll.png
    python examples/swiss_roll.py --quick
"""

import argparse
import itertools
import math
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


def train(bound: float | None, options: argparse.Namespace) -> dict[str, Any]:
    """A critic with weights clipped to a bound, or with the penalty (None), and what became of it."""
    torch.manual_seed(options.seed)
    generator = torch.Generator().manual_seed(options.seed)
    critic = Critic(options.layers, options.width).to(options.device)
    clipper = None
    if bound is None:
        optimizer: torch.optim.Optimizer = torch.optim.Adam(critic.parameters(), lr=1e-4, betas=(0.0, 0.9))
    else:
        optimizer = torch.optim.RMSprop(critic.parameters(), lr=min(1e-3, bound / 10))
        clipper = clipwise.torch.attach(optimizer, weights=clipwise.clip_by_value(bound))
    for step in range(options.steps):
        real = swiss_roll(options.batch, generator)
        fake = (real + torch.randn(real.shape, generator=generator)).to(options.device)
        real = real.to(options.device)
        loss = critic(fake).mean() - critic(real).mean()
        if bound is None:
            loss = loss + clipwise.torch.gradient_penalty(critic, real, fake)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % max(1, options.steps // 4) == 0:
            print(f"  {name_of(bound)}: step {step} of {options.steps}, loss {loss.item():.4g}", flush=True)
    weights = [layer.weight.detach().ravel() for layer in critic.layers]
    return {
        "norms": gradient_norms(critic, real, fake),
        "weights": torch.cat(weights).cpu(),
        "at_bound": None if clipper is None else float(clipper.weights.report.at_bound),
    }


def gradient_norms(critic: Critic, real: Tensor, fake: Tensor) -> list[float]:
    """The norm of the critic's gradient by each layer's output, the mean over samples, in float64."""
    exact = Critic(len(critic.layers), critic.layers[0].out_features).double()
    exact.load_state_dict(critic.state_dict())
    activations = exact.activations(torch.cat([real, fake]).double().cpu())
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


def draw(found: dict[float | None, dict[str, Any]], path: Path) -> None:
    """The two pictures of the paper: norms by layer, and the histograms of weights."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, *right) = plt.subplots(
        1, 3, figsize=(12, 3.8), width_ratios=(1.5, 1, 1), layout="constrained"
    )
    for (bound, result), colour in zip(found.items(), ("C3", "C1", "C4", "C2"), strict=True):
        norms = [norm if norm > 0 else math.nan for norm in result["norms"]]
        left.semilogy(range(1, len(norms) + 1), norms, "o-", color=colour, label=name_of(bound))
    left.set(xlabel="layer of the critic", ylabel="gradient norm", title="Gradient by a layer's output")
    left.legend()
    left.grid(alpha=0.3)
    for axes, bound, colour in zip(right, (0.01, None), ("C1", "C2"), strict=True):
        axes.hist(found[bound]["weights"].numpy(), bins=61, color=colour)
        axes.set(xlabel="weight", yticks=[], title=f"Weights, {name_of(bound)}")
    figure.savefig(path, dpi=110)
    print(f"picture: {path}")


def main(arguments: list[str] | None = None) -> dict[float | None, dict[str, Any]]:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--layers", type=int, default=12, help="linear layers of the critic")
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, help="where to write the picture")
    parser.add_argument("--quick", action="store_true", help="5 layers of 64, 20 steps: to see that it runs")
    options = parser.parse_args(arguments)
    if options.quick:
        options.layers, options.width, options.steps, options.batch = 5, 64, 20, 32
    found = {bound: train(bound, options) for bound in (*BOUNDS, None)}
    print(f"{'':10}{'first layer':>14}{'last but one':>14}{'decades a layer':>17}{'at the bound':>14}")
    for bound, result in found.items():
        norms, share = result["norms"], result["at_bound"]
        shown = "" if share is None else f"{share:.0%}"
        slope = slope_of(norms)
        print(f"{name_of(bound):10}{norms[0]:14.3g}{norms[-2]:14.3g}{slope:17.2f}{shown:>14}")
    if options.out is not None:
        draw(found, options.out)
    return found


if __name__ == "__main__":
    main()
