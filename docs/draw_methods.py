"""Draws what each clip does: `python docs/draw_methods.py` writes docs/methods/<name>.svg.

Three panels, each computed by an optimizer with the clip attached: gradients of two entries of one tensor,
gradients of two tensors of one entry each, and the norms of 200 steps before and after. For a clip of
updates, the panels show what the optimizer makes of these gradients.
"""

import copy
import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

import clipwise

FOLDER = Path(__file__).parent / "methods"
SIDE, GAP, TOP, REACH, OF_UPDATES = 260, 24, 30, 3.0, 0.6
BEFORE, AFTER, LEFT_OUT = "#b8c0cc", "#1f5fbf", "#c0392b"


class Method(NamedTuple):
    """A clip, the weights and the learning rate that it may look at, and how its pictures are made.

    Attributes:
        history: whether the plane is shown after 150 steps.
        updates: whether the clip acts on the updates of Adam, in place of gradients.
    """

    clip: clipwise.AnyClip
    one: tuple[float, ...] = (1.6, 1.2)
    two: tuple[float, ...] = (3.0, 1.0)
    rate: float = 0.0
    history: bool = False
    updates: bool = False


METHODS = {
    "clip_by_value": Method(clipwise.clip_by_value(1.0)),
    "clip_by_norm": Method(clipwise.clip_by_norm(1.0)),
    "clip_by_global_norm": Method(clipwise.clip_by_global_norm(1.0)),
    "clip_by_block_rms": Method(clipwise.clip_by_block_rms(1.0)),
    "adaptive_grad_clip": Method(clipwise.adaptive_grad_clip(0.5)),
    "autoclip": Method(clipwise.autoclip(), history=True),
    "zclip": Method(clipwise.zclip(), history=True),
    "adagc": Method(clipwise.adagc(), history=True),
    "norm_growth_limit": Method(clipwise.norm_growth_limit(), history=True),
    "skip_spikes": Method(clipwise.skip_spikes(), history=True),
    "stable_adamw": Method(clipwise.stable_adamw(), rate=1.0, history=True, updates=True),
    "auto": Method(clipwise.auto(), rate=0.1, history=True),
}


class Model:
    """Two weights, as one tensor or as two, and an optimizer of them with the clip of a method."""

    def __init__(self, method: Method, tensors: int, clipped: bool = True) -> None:
        values = torch.tensor(method.one if tensors == 1 else method.two, dtype=torch.float64)
        self.parameters = [part.clone().requires_grad_() for part in values.split(2 // tensors)]
        self.method = method
        make = torch.optim.Adam if method.updates else torch.optim.SGD
        self.optimizer: torch.optim.Optimizer = make(self.parameters, method.rate)
        clip = method.clip if clipped else clipwise.Clip(math.inf)
        self.clipper = clipwise.torch.attach(
            self.optimizer, **{"updates" if method.updates else "clip": clip}
        )

    def step(self, gradient: np.ndarray) -> np.ndarray | None:
        """The gradient, or the update, after clipping; None for a step that is skipped."""
        parts, before = torch.tensor(gradient).split(2 // len(self.parameters)), self.weights()
        for parameter, part in zip(self.parameters, parts, strict=True):
            parameter.grad = part.clone()
        self.optimizer.step()
        if self.method.updates:
            return (before - self.weights()).numpy()
        left = torch.cat([parameter.grad for parameter in self.parameters]).numpy()
        return None if bool(self.clipper.report.skipped) else left

    def weights(self) -> torch.Tensor:
        return torch.cat([parameter.detach() for parameter in self.parameters])

    def without_memory(self) -> Callable[[np.ndarray], np.ndarray | None]:
        """`step`, each time from the history and the weights as they are now."""
        kept = copy.deepcopy((self.clipper.state_dict(), self.optimizer.state_dict(), self.weights()))

        def once(gradient: np.ndarray) -> np.ndarray | None:
            of_clipper, of_optimizer, weights = copy.deepcopy(kept)
            self.clipper.load_state_dict(of_clipper)
            self.optimizer.load_state_dict(of_optimizer)
            with torch.no_grad():
                for parameter, part in zip(
                    self.parameters, weights.split(2 // len(self.parameters)), strict=True
                ):
                    parameter.copy_(part)
            return self.step(gradient)

        return once


def norms() -> np.ndarray:
    """Of 200 steps: they fall by half, vary by a fifth, and four of them are spikes."""
    random = np.random.default_rng(0)
    found = np.exp(0.2 * random.standard_normal(200)) * np.linspace(1.6, 0.8, 200)
    found[[60, 61, 120, 170]] *= (6.0, 4.0, 12.0, 8.0)
    return found


def plane(method: Method, tensors: int) -> Iterator[str]:
    """Gradients on a grid, each with a line to what is left of it, and what becomes of a circle."""
    clip, given = after_history(Model(method, tensors)), without_clip(method, tensors)
    grid = np.linspace(-REACH, REACH, 13)
    angles = np.linspace(0.0, 2.0 * math.pi, 181)
    reach = OF_UPDATES if method.updates else REACH
    circle = [clip(REACH * np.array([math.cos(angle), math.sin(angle)])) for angle in angles]
    yield path([f"M0 {SIDE / 2}H{SIDE}M{SIDE / 2} 0V{SIDE}"], "#ddd")
    points = [np.array([x, y]) for x in grid for y in grid]
    ends = [None if (left := clip(point)) is None else place(left, reach) for point in points]
    pairs = list(zip([place(given(point), reach) for point in points], ends, strict=True))
    moved = [(start, end) for start, end in pairs if end not in (start, None)]
    yield path((f"M{x} {y}L{u} {v}" for (x, y), (u, v) in moved), BEFORE)
    yield path((f"M{x} {y}h0" for (x, y), _ in moved), BEFORE, 3)
    yield path((f"M{x} {y}h0" for x, y in (end for _, end in pairs if end)), AFTER, 5)
    yield path((cross(start) for start, end in pairs if end is None), LEFT_OUT)
    if all(point is not None for point in circle):
        yield line([place(point, reach) for point in circle], AFTER)


def after_history(model: Model) -> Callable[[np.ndarray], np.ndarray | None]:
    """What the model's clip makes of a gradient, after 150 calm steps if the method has a history."""
    if model.method.history:
        norms = 1.0 + 0.15 * np.random.default_rng(1).standard_normal(150)
        if model.method.updates:  # back and forth, so that Adam's mean of the gradients is near 0
            norms[::2] *= -1.0
        for norm in norms:
            model.step(norm * np.array([0.8, 0.6]))
    return model.without_memory()


def without_clip(method: Method, tensors: int) -> Callable[[np.ndarray], np.ndarray | None]:
    """What the clip is given: the gradient itself, or the update that Adam makes of it."""
    return after_history(Model(method, tensors, clipped=False)) if method.updates else lambda point: point


def place(point: np.ndarray, reach: float) -> tuple[float, float]:
    x, y = SIDE / 2 + point * (SIDE / 2 - 8) / reach * (1.0, -1.0)
    return round(x, 1), round(y, 1)


def steps(method: Method) -> Iterator[str]:
    """Norms over the steps, before and after, on a logarithmic scale from 0.1 to 20."""
    model, every = Model(method, 1), norms()
    after = [model.step(norm * np.array([0.8, 0.6])) for norm in every]
    if method.updates:
        plain = Model(method, 1, clipped=False)
        every = [float(np.linalg.norm(plain.step(norm * np.array([0.8, 0.6])))) for norm in every]
    for norm in (0.1, 1.0, 10.0):
        height = at(0, norm)[1]
        yield path([f"M0 {height}H{SIDE}"], "#ddd")
        yield f'<text x="{SIDE - 2}" y="{height - 3}" text-anchor="end" fill="#888">{norm:g}</text>'
    yield line([at(step, norm) for step, norm in enumerate(every)], BEFORE)
    taken = [(step, norm) for step, norm in enumerate(after) if norm is not None]
    yield line([at(step, float(np.linalg.norm(norm))) for step, norm in taken], AFTER)
    yield path((cross(at(step, every[step])) for step, norm in enumerate(after) if norm is None), LEFT_OUT)


def at(step: int, norm: float) -> tuple[float, float]:
    share = math.log(max(norm, 0.1) / 0.1) / math.log(20.0 / 0.1)
    return round(step * SIDE / 199, 1), round(SIDE - 4 - share * (SIDE - 8), 1)


def line(points: list[tuple[float, float]], colour: str) -> str:
    return path(["M" + "L".join(f"{x} {y}" for x, y in points)], colour, 1.5)


def cross(point: tuple[float, float]) -> str:
    return f"M{point[0] - 3:.1f} {point[1] - 3:.1f}l6 6m0 -6l-6 6"


def path(parts: Iterable[str], colour: str, width: float = 1) -> str:
    """One element for many lines and dots; a dot is a line of length 0 with round ends."""
    shape = f'fill="none" stroke="{colour}" stroke-width="{width}" stroke-linecap="round"'
    return f'<path d="{"".join(parts)}" {shape}/>'


def drawing(method: Method) -> str:
    """The picture of one method as SVG."""
    panels = {
        "two entries of one tensor": plane(method, 1),
        "two tensors of one entry": plane(method, 2),
        "norm over 200 steps": steps(method),
    }
    width, height = 3 * SIDE + 4 * GAP, SIDE + TOP + GAP
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
    ]
    for number, (title, content) in enumerate(panels.items()):
        left = GAP + number * (SIDE + GAP)
        parts += [f'<g transform="translate({left} {TOP})">', f'<text y="-10" fill="#444">{title}</text>']
        parts += [*content, f'<rect width="{SIDE}" height="{SIDE}" fill="none" stroke="#999"/></g>']
    return "\n".join([*parts, "</svg>", ""])


def main() -> None:
    for name, method in METHODS.items():
        (FOLDER / f"{name}.svg").write_text(drawing(method))


if __name__ == "__main__":
    main()
