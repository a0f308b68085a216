"""Series of norms and losses: of the lab's examples as they were recorded, and made up."""

import json
import math
from pathlib import Path

import numpy as np

RECORDED = json.loads((Path(__file__).parent / "recorded.json").read_text(encoding="utf-8"))


def recorded(name):
    """Norms and losses of a training of ``examples/``, to four digits."""
    return tuple(
        np.asarray([float(value) for value in RECORDED[name][column]]) for column in ("norm", "loss")
    )


def noise(count, spread=0.3, seed=0):
    """Around 1, log-normal."""
    return np.exp(spread * np.random.default_rng(seed).normal(size=count))


def falling(count, first=4.0, last=1.0, seed=1):
    """Losses of a training that works."""
    way = np.linspace(0.0, 1.0, count)
    return last + (first - last) * np.exp(-5 * way) + 0.05 * np.random.default_rng(seed).normal(size=count)


def spiked(count=200, every=20, size=50.0):
    """Usual norms with a spike now and then."""
    norms = noise(count)
    norms[every - 1 :: every] *= size
    return norms


NAN, INF = math.nan, math.inf
