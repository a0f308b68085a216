"""Every loss once more, token by token in Python floats, written from the papers' formulas."""

import math


def rows(x):
    return [list(map(float, row)) for row in x]


def cut(x, low, high):
    return min(max(x, low), high)


def log_ratios(logp, old, bound=20.0):
    return [
        [cut(a - b, -bound, bound) for a, b in zip(r, s, strict=True)] for r, s in zip(logp, old, strict=True)
    ]


def ppo_term(ratio, worth, low, high, dual=None):
    term = min(ratio * worth, cut(ratio, 1 - low, 1 + high) * worth)
    return max(term, dual * worth) if dual is not None and worth < 0 else term


def two_sided_term(ratio, worth, low, high, delta):
    return min(min(ratio, delta) * worth, cut(ratio, 1 - low, 1 + high) * worth)


def mean_of(terms, mask, how, length=None):
    kept = [[t for t, m in zip(row, flags, strict=True) if m] for row, flags in zip(terms, mask, strict=True)]
    if how == "token_mean":
        every = [t for row in kept for t in row]
        return math.fsum(every) / len(every)
    if how == "sequence_mean":
        return math.fsum(math.fsum(row) / len(row) if row else 0.0 for row in kept) / len(kept)
    return math.fsum(math.fsum(row) / length for row in kept) / len(kept)


def ppo(logp, old, worth, mask, low, high, *, dual=None, how="token_mean", length=None, term=ppo_term):
    terms = []
    for logs, values in zip(log_ratios(logp, old), worth, strict=True):
        terms.append([-term(math.exp(x), a, low, high, dual) for x, a in zip(logs, values, strict=True)])
    return mean_of(terms, mask, how, length)


def sequence_ratios(logp, old, mask):
    found = []
    for r, s, flags in zip(logp, old, mask, strict=True):
        differences = [a - b for a, b, m in zip(r, s, flags, strict=True) if m]
        found.append(
            math.exp(cut(math.fsum(differences) / len(differences), -20, 20)) if differences else None
        )
    return found


def gspo(logp, old, worth, mask, low, high):
    ratios = sequence_ratios(logp, old, mask)
    terms = [0.0 if s is None else -ppo_term(s, a, low, high) for s, a in zip(ratios, worth, strict=True)]
    return math.fsum(terms) / len(terms)


def cispo(logp, old, worth, mask, bottom, top):
    terms = []
    for r, logs, values in zip(logp, log_ratios(logp, old), worth, strict=True):
        terms.append(
            [-cut(math.exp(x), bottom, top) * a * p for p, x, a in zip(r, logs, values, strict=True)]
        )
    return mean_of(terms, mask, "token_mean")


def value(values, old, returns, mask, epsilon, convention):
    losses = []
    for v, o, r, m in zip(values, old, returns, mask, strict=True):
        if m:
            ends = o + cut(v - o, -epsilon, epsilon)
            free, clipped = (v - r) ** 2, (ends - r) ** 2
            losses.append(0.5 * max(free, clipped) if convention == "max" else clipped)
    return math.fsum(losses) / len(losses)


def figures(logp, old, worth, mask, low, high):
    """What people log, counted token by token."""
    seen = []
    for x, a, m in zip(log_ratios(logp, old), worth, mask, strict=True):
        seen += [(x, math.exp(x), a) for x, a, m in zip(x, a, m, strict=True) if m]
    n = len(seen)
    below = sum(r < 1 - low for _, r, _ in seen) / n
    above = sum(r > 1 + high for _, r, _ in seen) / n
    low_binding = sum(r < 1 - low and a < 0 for _, r, a in seen) / n
    high_binding = sum(r > 1 + high and a > 0 for _, r, a in seen) / n
    return {
        "outside": below + above,
        "outside_low": below,
        "outside_high": above,
        "binding": low_binding + high_binding,
        "binding_low": low_binding,
        "binding_high": high_binding,
        "kl_k1": math.fsum(-x for x, _, _ in seen) / n,
        "kl_k3": math.fsum(r - 1 - x for x, r, _ in seen) / n,
        "ratio_min": min(r for _, r, _ in seen),
        "ratio_max": max(r for _, r, _ in seen),
        "ratio_mean": math.fsum(r for _, r, _ in seen) / n,
    }
