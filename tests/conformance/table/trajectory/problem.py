"""One small recurrent problem for every framework: its weights, its data, its loss.

A weight is given as ``(in, out)``; PyTorch keeps it the other way round. Every 20th batch is five times as
large, so that gradients are larger now and then, but no run explodes: that would blow up rounding, too.
"""

from typing import Any

import numpy as np

import clipwise
from clipwise import Clip, thresholds

STEPS, RATE, HIDDEN = 200, 0.0625, 6

SHAPES = {
    "cell.kernel_x": (3, 4 * HIDDEN),
    "cell.kernel_h": (HIDDEN, 4 * HIDDEN),
    "cell.bias": (4 * HIDDEN,),
    "head.kernel": (HIDDEN, 2),
    "head.bias": (2,),
}

CLIPS = {
    "value": clipwise.clip_by_value(0.05),
    "range": clipwise.clip_by_value(low=-0.1, high=0.02),
    "norm": clipwise.clip_by_norm(0.1),
    "global norm": clipwise.clip_by_global_norm(0.3),
    "global norm of order 1": clipwise.clip_by_global_norm(1.0, 1.0),
    "block rms": clipwise.clip_by_block_rms(0.02),
    "agc": clipwise.adaptive_grad_clip(0.02),
    "units": Clip(thresholds.percentile(60, window=50), per="unit"),
    "autoclip": clipwise.autoclip(40),
    "autoclip of a window": clipwise.autoclip(40, window=32),
    "zclip": clipwise.zclip(),
    "adagc": clipwise.adagc(warmup=20),
    "auto": clipwise.auto(),
    "mean": clipwise.clip_by_global_norm(thresholds.mean(1.1)),
    "quantile": clipwise.clip_by_norm(thresholds.quantile_ema(0.9)),
    "cosine": clipwise.clip_by_global_norm(thresholds.cosine(1.0, 0.1, 100)),
    "chain": clipwise.chain(clipwise.clip_by_value(0.1), clipwise.autoclip(50)),
    "by name": clipwise.by_name(
        {"cell.*": clipwise.autoclip(50), "head.bias": None, "*": clipwise.clip_by_norm(0.1)}
    ),
    "skip": clipwise.chain(clipwise.skip_spikes(3.0, window=24), clipwise.autoclip(50)),
}

FOLLOWS_LOSS = clipwise.clip_by_global_norm(thresholds.reduce_on_instability(1.0, 0.5, patience=1))
SKIPS_BY_LOSS = clipwise.chain(clipwise.skip_spikes(3.0, window=24, on="loss"), FOLLOWS_LOSS)


def weights() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(7)
    return {name: rng.normal(0.0, 0.4, shape) for name, shape in SHAPES.items()}


def batches() -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(8)
    made = []
    for step in range(STEPS):
        x = rng.normal(size=(8, 4, 3)) * (5.0 if step % 20 == 19 else 1.0)
        made.append((x, np.stack([x[-1, :, 0] * x[0, :, 1], x[-2, :, 2]], axis=-1)))
    return made


def loss(w: dict[str, Any], x: Any, y: Any, tanh: Any, sigmoid: Any, mean: Any) -> Any:
    """The mean squared error of an LSTM without a state to begin with."""
    h = c = None
    for t in range(x.shape[0]):
        gates = x[t] @ w["cell.kernel_x"] + w["cell.bias"]
        if h is not None:
            gates = gates + h @ w["cell.kernel_h"]
        i, f, g, o = (gates[:, k * HIDDEN : (k + 1) * HIDDEN] for k in range(4))
        new = sigmoid(i) * tanh(g)
        c = new if c is None else sigmoid(f) * c + new
        h = sigmoid(o) * tanh(c)
    error = h @ w["head.kernel"] + w["head.bias"] - y
    return mean(error * error)


def held(report: Any) -> dict[str, float]:
    """What held the threshold, of a report and its parts."""
    parts = {
        f"{key}: {name}": share for key, part in report.parts.items() for name, share in held(part).items()
    }
    return {name: float(share) for name, share in report.held.items()} | parts
