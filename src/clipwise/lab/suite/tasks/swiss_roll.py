"""The Swiss roll: a generator and a critic, and how gradients go through a deep critic."""

import itertools
import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from clipwise.clip import clip_by_value
from clipwise.lab.suite.loop import LoopTask, Training, Update
from clipwise.lab.suite.methods import Method, Variant
from clipwise.lab.suite.task import Trial
from clipwise.torch import gradient_penalty

__all__ = ["CriticSlope", "SwissRoll", "points", "sliced_distance"]

PER_GENERATOR = 5
"""Steps of the critic for one of the generator."""
BOUNDS = (0.1, 0.01, 0.001)


class SwissRoll(LoopTask):
    """WGAN with a gradient penalty: Gulrajani et al. 2017 (arXiv:1704.00028), the toy example, smaller."""

    def __init__(self) -> None:
        super().__init__(
            name="swiss-roll",
            title="WGAN with gradient penalty on the Swiss roll, Adam",
            about="Points in the plane; generator and critic of three ReLU layers of 64, penalty .1, Adam at"
            " .001 with betas .5 and .9, five steps of the critic for one of the generator, batch 128, after"
            " Gulrajani et al. 2017 (512 wide, .0001). Both optimizers are clipped; steps are the critic's.",
            metric="distance",
            sizes={
                "tiny": {"steps": 12, "every": 6, "test": 100},
                "small": {"steps": 500, "every": 100, "test": 2_000},
                "full": {"steps": 4_000, "every": 400, "test": 4_000},
            },
            seconds={"tiny": 0.2, "small": 1.8, "full": 14},
        )

    def build(self, trial: Trial) -> Training:
        size, variant = self.sizes[trial.budget], trial.variant
        generator, critic = _layers(3, 64, 2), _layers(3, 64, 1, norm=variant.layer_norm)
        optimizers = [
            torch.optim.Adam(
                one.parameters(), lr=1e-3 * variant.rate, betas=(0.5, 0.9), weight_decay=variant.weight_decay
            )
            for one in (critic, generator)
        ]
        drawn = torch.Generator().manual_seed(trial.seed)
        test = points(size["test"], torch.Generator().manual_seed(2017))
        noise = torch.randn(size["test"], 2, generator=torch.Generator().manual_seed(2018))

        def fake() -> Tensor:
            made: Tensor = generator(torch.randn(128, 2, generator=drawn))
            return made

        def updates() -> Iterator[Update]:
            for step in itertools.count(1):
                real, made = points(128, drawn), fake().detach()
                apart = critic(made).mean() - critic(real).mean()
                yield apart + gradient_penalty(critic, real, made, weight=0.1), 0
                if step % PER_GENERATOR == 0:
                    yield -critic(fake()).mean(), 1

        def evaluate() -> dict[str, float]:
            return {"distance": sliced_distance(generator(noise), test)}

        model = nn.ModuleDict({"critic": critic, "generator": generator})
        return Training(model, optimizers, updates, evaluate, size["steps"], size["every"])


class CriticSlope(LoopTask):
    """Figure 1b of Gulrajani et al. 2017: a deep critic, its weights clipped, or with the penalty."""

    def __init__(self) -> None:
        bounded = (
            Method(f"bound-{c:g}", f"weights within {c:g}", None, "clip", (Variant(option=f"{c:g}"),))
            for c in BOUNDS
        )
        penalty = Method("penalty", "gradient penalty", None, "rival")
        super().__init__(
            name="critic-slope",
            title="How the gradient goes through a critic of twelve layers",
            about="The Swiss roll against itself with noise, twelve ReLU layers without normalisation, as"
            " Gulrajani et al. 2017, figure 1b: weights clipped to [-c, c] with RMSprop, or the gradient"
            " penalty with Adam. Begun inside the bounds, in float64.",
            metric="slope",
            sizes={
                "tiny": {"steps": 4, "every": 2, "width": 8},
                "small": {"steps": 60, "every": 20, "width": 64},
                "full": {"steps": 300, "every": 60, "width": 256},
            },
            seconds={"tiny": 0.2, "small": 2, "full": 25},
            methods={one.name: one for one in (*bounded, penalty)},
            has_norm=False,
        )

    def build(self, trial: Trial) -> Training:
        size = self.sizes[trial.budget]
        bound = float(trial.variant.option) if trial.variant.option else None
        critic = _layers(11, size["width"], 1).double()
        linear = [layer for layer in critic if isinstance(layer, nn.Linear)]
        for layer in linear:
            nn.init.kaiming_normal_(layer.weight)
            nn.init.zeros_(layer.bias)
            if bound is not None:
                nn.init.uniform_(layer.weight, -bound / 2, bound / 2)
        optimizer: torch.optim.Optimizer
        if bound is None:
            optimizer = torch.optim.Adam(critic.parameters(), lr=1e-4, betas=(0.0, 0.9))
        else:
            # The smallest gradients are far below the usual epsilon.
            optimizer = torch.optim.RMSprop(critic.parameters(), lr=bound / 100, eps=1e-30)
        drawn = torch.Generator().manual_seed(trial.seed)
        test = _pair(64, torch.Generator().manual_seed(2017))

        def updates() -> Iterator[Update]:
            while True:
                real, fake = _pair(64, drawn)
                loss = critic(fake).mean() - critic(real).mean()
                yield loss if bound is not None else loss + gradient_penalty(critic, real, fake), 0

        def evaluate() -> dict[str, float]:
            slope = _slope(critic, torch.cat(test))
            figures = {"slope": abs(slope), "signed": slope}
            if bound is not None:
                weights = torch.cat([layer.weight.ravel() for layer in linear]).abs()
                figures["at_bound"] = float((weights >= bound).double().mean())
            return figures

        weights = None if bound is None else clip_by_value(bound)
        return Training(critic, [optimizer], updates, evaluate, size["steps"], size["every"], weights=weights)


def points(count: int, random: torch.Generator) -> Tensor:
    """Points of the roll in the plane with a little noise, at the paper's scale."""
    turn = 1.5 * math.pi * (1 + 2 * torch.rand(count, generator=random))
    roll = torch.stack([turn * turn.cos(), turn * turn.sin()], dim=1)
    return (roll + 0.25 * torch.randn(count, 2, generator=random)) / 7.5


def sliced_distance(one: Tensor, other: Tensor, directions: int = 64) -> float:
    """The Wasserstein-1 distance of as many points each, the mean over projections onto directions."""
    angle = math.pi * torch.arange(directions, dtype=torch.float64) / directions
    onto = torch.stack([angle.cos(), angle.sin()])
    mine, theirs = ((each.double() @ onto).sort(dim=0).values for each in (one, other))
    return float((mine - theirs).abs().mean())


def _pair(count: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """The roll, and the same with noise of unit variance."""
    real = points(count, random).double()
    return real, real + torch.randn(real.shape, generator=random)


def _layers(count: int, width: int, outputs: int, *, norm: bool = False) -> nn.Sequential:
    """So many ReLU layers and a linear one after them, from the plane."""
    sizes = [2, *[width] * count]
    parts: list[nn.Module] = []
    for a, b in itertools.pairwise(sizes):
        parts += [nn.Linear(a, b), *([nn.LayerNorm(b)] if norm else []), nn.ReLU()]
    return nn.Sequential(*parts, nn.Linear(width, outputs))


def _slope(critic: nn.Sequential, x: Tensor) -> float:
    """By how many decades the norm of the gradient grows a layer on its way back to the first."""
    with torch.enable_grad():
        outputs = []
        for layer in critic:
            x = layer(x)
            if isinstance(layer, nn.Linear):
                outputs.append(x)
        found = torch.autograd.grad(x.sum(), outputs)
    first, last = (float(found[place].norm(dim=1).mean()) for place in (0, -2))
    if not (first > 0 and last > 0):
        return math.nan
    return (math.log10(first) - math.log10(last)) / (len(found) - 2)
