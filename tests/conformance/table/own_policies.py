"""Policies as a user writes them, told about weights, losses and steps, and the same once more in numpy.

A policy is a frozen dataclass over any namespace; its oracle is a function of plain float64 numpy that is
told the norms of all groups of one step, of whatever is not there 0, and keeps what it likes in a dict.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np

from clipwise import Clip
from clipwise.thresholds import Observation

NOTHING: frozenset[str] = frozenset()


class Nothing(NamedTuple):
    pass


@dataclass(frozen=True)
class Halving:
    """``0.5**t`` times the norm of the weights: each step half of the last."""

    needs: ClassVar = frozenset({"weight_norm"})
    wants: ClassVar = NOTHING
    remembers: ClassVar = True
    watches_norm: ClassVar = False

    def init(self, xp, shape):
        return Nothing()

    def update(self, xp, state, seen):
        return 0.5**seen.step * seen.weight_norm, state


class Past(NamedTuple):
    total: Any
    count: Any
    last: Any


@dataclass(frozen=True)
class Average:
    """Half of the average norm so far, plus a tenth of the two last; its state is of several arrays."""

    needs: ClassVar = NOTHING
    wants: ClassVar = NOTHING
    remembers: ClassVar = True
    watches_norm: ClassVar = True

    def init(self, xp, shape):
        return Past(xp.zeros(shape), xp.zeros(shape, dtype=xp.int32), xp.zeros((*shape, 2)))

    def update(self, xp, state, seen):
        norm = xp.asarray(seen.norm)
        usable = xp.isfinite(norm) & (norm > 0)
        total = state.total + xp.where(usable, norm, xp.zeros_like(norm))
        count = state.count + xp.astype(usable, xp.int32)
        last = xp.stack([xp.where(usable, norm, state.last[..., 0]), state.last[..., 0]], axis=-1)
        average = total / xp.astype(xp.maximum(count, xp.ones_like(count)), norm.dtype)
        return 0.5 * average + 0.1 * xp.sum(last, axis=-1), Past(total, count, last)


@dataclass(frozen=True)
class WeighedAverage(Average):
    """The same of the loss times the norm of the weights; for single entries, too."""

    needs: ClassVar = frozenset({"weight_norm", "loss"})
    watches_norm: ClassVar = False

    def update(self, xp, state, seen):
        return super().update(xp, state, Observation(norm=seen.loss * seen.weight_norm))


@dataclass(frozen=True)
class Told:
    """From everything that is told besides norms; its sign is wrong while the loss is above 1."""

    needs: ClassVar = frozenset({"weight_norm", "loss", "learning_rate"})
    wants: ClassVar = frozenset({"momentum"})
    remembers: ClassVar = False
    watches_norm: ClassVar = False

    def init(self, xp, shape):
        return Nothing()

    def update(self, xp, state, seen):
        effective = seen.learning_rate / (1.0 - seen.momentum)
        return (1.0 - seen.loss) * effective * seen.weight_norm, state


def halving(memory, step, norm, weight, told):
    return 0.5**step * weight


def average(memory, step, norm, weight, told):
    past = memory.setdefault("past", [[] for _ in norm])
    last = memory.setdefault("last", np.zeros((len(norm), 2)))
    for place, value in enumerate(norm):
        usable = np.isfinite(value) and value > 0
        past[place] += [value] if usable else []
        last[place] = value if usable else last[place, 0], last[place, 0]
    means = np.array([np.mean(one) if one else 0.0 for one in past])
    return 0.5 * means + 0.1 * last.sum(-1)


def weighed_average(memory, step, norm, weight, told):
    return average(memory, step, told["loss"] * weight, weight, told)


def told_of(memory, step, norm, weight, told):
    return np.maximum(0.0, (1.0 - told["loss"]) * told["rate"] / (1.0 - told["momentum"]) * weight)


ORACLES = {
    Halving: halving,
    Average: average,
    WeighedAverage: weighed_average,
    Told: told_of,
}
CLIPS = {
    f"{policy.__name__} per {per}": Clip(policy(), per=per)
    for policy in ORACLES
    for per in ("element", "unit", "tensor", "global")
    if not (per == "element" and policy.watches_norm)  # which Clip refuses
}

RATE, MOMENTUM = 0.5, 0.25
LOSSES = [0.5, 0.25, 1.5, 0.75, 0.125]


def weights() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    shapes = {"kernel": (4, 3), "bias": (4,), "head": (2, 4)}
    return {name: rng.normal(0.0, 1.0, shape) for name, shape in shapes.items()}


def gradients() -> list[dict[str, np.ndarray | None]]:
    """One for each loss. ``bias`` has none in the second and the fourth; there is NaN in the third."""
    rng = np.random.default_rng(4)
    steps: list[dict[str, Any]] = []
    for place in range(len(LOSSES)):
        made: dict[str, Any] = {n: rng.normal(0.0, 1.0, w.shape) for n, w in weights().items()}
        if place % 2:
            made["bias"] = None
        if place == 2:
            made["head"][1, 2] = np.nan
        steps.append(made)
    return steps


def expected(clip: Clip):
    """For each step the clipped gradients by name, zeros for none; None for the step that is left out."""
    memory: dict[str, Any] = {}
    policy, found = ORACLES[type(clip.threshold)], []
    w = weights()
    by_entry = clip.per == "element" and "weight_norm" in clip.threshold.needs
    for step, (given, loss) in enumerate(zip(gradients(), LOSSES, strict=True)):
        told = {"loss": loss, "rate": RATE, "momentum": MOMENTUM}
        bad = any(g is not None and not np.isfinite(g).all() for g in given.values())
        whole = {name: np.zeros_like(w[name]) if g is None else g for name, g in given.items()}
        groups = _groups("entries" if by_entry else "global" if clip.per == "element" else clip.per)
        norms = np.array([np.sqrt(sum((whole[n][at] ** 2).sum() for n, at in group)) for group in groups])
        sizes = np.array([np.sqrt(sum((w[n][at] ** 2).sum() for n, at in group)) for group in groups])
        thresholds = policy(memory, step, np.full_like(norms, np.nan) if bad else norms, sizes, told)
        clipped = {name: g.copy() for name, g in whole.items()}
        for group, norm, threshold in zip(groups, norms, thresholds, strict=True):
            for name, at in group:
                if clip.per == "element":
                    clipped[name][at] = np.clip(whole[name][at], -threshold, threshold)
                elif norm > threshold:
                    clipped[name][at] = whole[name][at] * (threshold / norm)
        found.append(None if bad else {n: c for n, c in clipped.items() if given[n] is not None})
    return found


def _groups(per: str):
    """Which entries of which weights belong together."""
    w = weights()
    match per:
        case "entries":
            return [[(name, at)] for name, value in w.items() for at in np.ndindex(value.shape)]
        case "unit":
            rows = {
                n: [slice(i, i + 1) for i in range(len(v))] if v.ndim > 1 else [...] for n, v in w.items()
            }
            return [[(name, at)] for name, places in rows.items() for at in places]
        case "tensor":
            return [[(name, ...)] for name in w]
        case _:
            return [[(name, ...) for name in w]]
