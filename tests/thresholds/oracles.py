"""Each policy once more, as a plain loop over Python floats in float64, written from its paper's formula.

An oracle takes the norms of one group (with NaN, Inf and 0 among them) and gives the threshold of each step.
"""

import math

import numpy as np


def counts(norm):
    return math.isfinite(norm) and norm > 0


def fixed(norms, value):
    return [value for _ in norms]


def automatic(norms, size, gamma):
    return [n * size / (n + gamma) for n in norms]


def linear(norms, start, stop, steps):
    return [start + (stop - start) * min(t / steps, 1.0) for t in range(len(norms))]


def cosine(norms, start, stop, steps):
    return [
        stop + (start - stop) * (1 + math.cos(math.pi * min(t / steps, 1.0))) / 2 for t in range(len(norms))
    ]


def exponential(norms, start, stop, steps):
    return [start * (stop / start) ** min(t / steps, 1.0) for t in range(len(norms))]


def percentile(norms, q, window=None):
    history, out = [], []
    for n in norms:
        if counts(n):
            history.append(n)
        recent = history if window is None else history[-window:]
        out.append(float(np.percentile(recent, q)) if recent else math.inf)
    return out


def mean(norms, factor, decay):
    history, out = [], []
    for n in norms:
        # The average with weights decay^age that sum to one.
        weights = [decay ** (len(history) - 1 - i) for i in range(len(history))]
        average = (
            sum(w * h for w, h in zip(weights, history, strict=True)) / sum(weights) if history else None
        )
        out.append(math.inf if average is None else factor * average)
        if counts(n):
            history.append(n)
    return out


def rolling_zscore(norms, z, window):
    history, out = [], []
    for n in norms:
        out.append(_above_the_last(history, z, window))
        if counts(n):
            history.append(n)
    return out


def skip_spikes(norms, z, window, patience):
    """For each step its threshold and whether it is left out, NaN and Inf left out too (threshold NaN)."""
    history, row, out = [], 0, []
    for n in norms:
        threshold = _above_the_last(history, z, window)
        if not math.isfinite(n):
            out.append((math.nan, True))
        elif n > threshold and row < patience:
            row += 1
            out.append((threshold, True))
        else:
            row = row if n > threshold else 0
            out.append((threshold, False))
            if n > 0:
                history.append(n)
    return out


LOSSES = [-51.0, -50.0, -50.5, -52.0, -51.5, -10.0, -51.0, math.nan]
LOSSES += [-10.0, -10.0, -10.0, -math.inf, -10.0, -51.0, 40.0, -50.0]


def skip_losses(losses, z, window, patience):
    """For each step whether its loss leaves it out, which may be of any sign; NaN judges nothing."""
    history, row, out = [], 0, []
    for loss in losses:
        above = loss > _above_the_last(history, z, window)
        left = above and row < patience
        row = row + left if above else 0
        if not left and math.isfinite(loss):
            history.append(loss)
        out.append(left)
    return out


def _above_the_last(history, z, window):
    if len(history) < max(2, window // 2):
        return math.inf
    recent = np.array(history[-window:])
    return float(recent.mean() + z * max(recent.std(ddof=1), 1e-6 * abs(recent.mean())))


def zscore(norms, z, decay, warmup):
    buffer, mu, variance, out = [], None, None, []
    for n in norms:
        if mu is None:
            out.append(math.inf)
            if counts(n):
                buffer.append(n)
            if len(buffer) == warmup:
                mu = sum(buffer) / warmup
                variance = sum((b - mu) ** 2 for b in buffer) / warmup
            continue
        sigma = math.sqrt(variance)
        score = (n - mu) / (sigma + 1e-6)
        threshold = mu + z * (sigma + 1e-6)
        if score > z:
            threshold = mu + z * z * sigma / score
        out.append(threshold)
        if counts(n):
            kept = threshold if score > z else n
            mu = decay * mu + (1 - decay) * kept
            variance = decay * variance + (1 - decay) * (kept - mu) ** 2
    return out


def tensor_average(norms, together, factor, decay, warmup, start=1.0):
    gamma, seen, out = math.inf, 0, []
    for n, g in zip(norms, together, strict=True):
        young = seen < warmup
        threshold = n * min(1.0, start / g) if young else factor * gamma
        out.append(threshold)
        if not (counts(n) and math.isfinite(g)):
            continue
        seen += 1
        if young:
            gamma = min(gamma, n * min(1.0, start / g))
        else:
            gamma = decay * gamma + (1 - decay) * min(n, factor * gamma)
    return out


def norm_growth(norms, together, factor):
    """Fira's limiter; a norm that does not count, alone or together, is no step to grow from."""
    left, out = None, []
    for n, g in zip(norms, together, strict=True):
        out.append(n if left is None else factor * left)
        if counts(n) and math.isfinite(g):
            left = min(n, out[-1])
    return out


def quantile_ema(norms, quantile, rate, start):
    c, out = start, []
    for n in norms:
        out.append(c)
        if counts(n):
            c *= math.exp(-rate * ((1.0 if n <= c else 0.0) - quantile))
    return out


def loss_jumps(losses, window, z):
    """Whether each loss jumps, None where that cannot be told yet."""
    history, out = [], []
    for loss in losses:
        if not math.isfinite(loss):
            out.append(True)
            continue
        history = [*history, loss][-window:]
        if len(history) < 10:
            out.append(None)
            continue
        middle = float(np.median(history))
        away = np.abs(np.array(history) - middle)
        deviation = 1.4826 * np.median(away) or 1.2533 * np.mean(away)
        out.append(loss > middle + z * deviation)
    return out


def reduce_on_instability(losses, start, factor, patience, floor, window=100, z=3.0):
    threshold, jumps, calm, out = start, 0, 0, []
    for jump in loss_jumps(losses, window, z):
        if jump:
            jumps, calm = jumps + 1, 0
        else:
            calm += 1
            if calm >= window:
                jumps = 0
        if jumps >= patience:
            threshold, jumps = max(floor, factor * threshold), 0
        out.append(threshold)
    return out


def moment_ratio(norms, ratios, limit):
    return [n / (r / limit) if r > limit else math.inf for n, r in zip(norms, ratios, strict=True)]


def usual_norms(norms):
    """Before each step: the mean of logarithms, each at most 1 away; 50 norms, then with weight 0.02."""
    u, k, out = math.nan, 0, []
    for n in norms:
        out.append(math.exp(u) if k else math.inf)
        if counts(n):
            u = u + max(1 / (k + 1), 0.02) * min(max(math.log(n) - u, -1.0), 1.0) if k else math.log(n)
            k += 1
    return out


def smoothed_falls(losses):
    """Whether the mean, with weight 0.2 once there were 5 losses, is lower than ever."""
    means, out = [], []
    for loss in losses:
        if not math.isfinite(loss):
            out.append(False)
            continue
        last = means[-1] if means else 0.0
        mean = last + max(1 / (len(means) + 1), 0.2) * (loss - last)
        out.append(bool(means) and mean < min(means))
        means.append(mean)
    return out


def auto(
    norms, weights, count, rate, momentum, losses, first=0.02, stretch=2.0, spike=3.0, short=0.1, held=None
):
    """``count`` is the number of weights, or one for each step; a list takes what held each threshold."""
    sizes = [count] * len(norms) if isinstance(count, int) else count
    f, out, last, w0 = 1.0, [], None, 0.0
    falls, jumps = smoothed_falls(losses), loss_jumps(losses, 50, 5.0)
    rows = zip(norms, usual_norms(norms), jumps, falls, weights, sizes, rate, strict=True)
    for n, usual, jump, lower, w, size, lr in rows:
        known = math.isfinite(w)
        w = w if known else w0
        if size != last:
            w0, distance, steps = w, 0.0, []
            longest = first * max(w, 0.03 * math.sqrt(size))
        last = size if known else None
        distance = max(distance, (w - w0) ** 2, w**2 - w0**2)
        path = sum(s**2 for s in steps)
        hidden = sum(steps) < 4 * w0 / math.sqrt(size) or w < w0
        a = 1.0
        if path:
            a = math.sqrt(min(distance, sum(steps) ** 2) / (path + longest**2))
            a = min(max(a, 1.0 if hidden else 1 / stretch), stretch)
        if jump is not None:
            f = max(0.05, 0.5 * f) if jump else min(1.0, f * max(1.02, a))
        if hidden and lower and not jump:
            a = max(a, stretch ** (1 - momentum))
        carried = momentum * (steps[-1] if steps else 0.0)
        by_length, by_history = math.inf, spike * usual
        if lr:
            most = a * longest
            always = (1 - momentum) * most
            by_length = min(max(f * always, f * most - carried), 3 * f * always) / lr / f
            by_history = max(by_history, short * longest * (1 - momentum) / lr)
        bounds = {"length" if path else "start": by_length, "history": by_history}
        threshold = f * min(bounds.values())
        out.append(threshold)
        if held is not None:
            least = min(reversed(bounds), key=bounds.__getitem__)
            held.append("loss" if f < 1 else least if math.isfinite(threshold) else "start")
        steps.append(carried + (lr * min(n, threshold) if counts(n) else 0.0))
        longest = max(longest, steps[-1])
    return out


def auto_scale_free(norms):
    return [0.5 * usual for usual in usual_norms(norms)]
