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


def sapo(logp, old, worth, mask, positive, negative):
    terms = []
    for logs, values in zip(log_ratios(logp, old), worth, strict=True):
        row = []
        for x, a in zip(logs, values, strict=True):
            tau = positive if a > 0 else negative
            row.append(-4 / tau / (1 + math.exp(-tau * (math.exp(x) - 1))) * a)
        terms.append(row)
    return mean_of(terms, mask, "sequence_mean")


def gmpo(logp, old, worth, mask, low, high):
    terms = []
    for p, q, values, flags in zip(logp, old, worth, mask, strict=True):
        kept = [(x - y, a) for x, y, a, m in zip(p, q, values, flags, strict=True) if m]
        if not kept:
            terms.append(0.0)
            continue
        product = 1.0
        for d, a in kept:
            r, clipped = math.exp(d), math.exp(cut(d, -low, high))
            product *= min(r, clipped) if a > 0 else max(r, clipped) if a < 0 else r
        mean = math.fsum(a for _, a in kept) / len(kept)
        terms.append(-mean * product ** (1 / len(kept)))
    return math.fsum(terms) / len(terms)


def clip_cov(logp, old, worth, noise, mask, share, between, low, high):
    every = [(i, t) for i, flags in enumerate(mask) for t, m in enumerate(flags) if m]  # what counts
    mean_a = math.fsum(worth[i][t] for i, t in every) / len(every)
    mean_p = math.fsum(logp[i][t] for i, t in every) / len(every)
    ratios = [[math.exp(x) for x in row] for row in log_ratios(logp, old)]
    terms = [
        [-ppo_term(r, a, low, high) for r, a in zip(x, y, strict=True)]
        for x, y in zip(ratios, worth, strict=True)
    ]
    eligible = []
    for i, t in every:
        r, a = ratios[i][t], worth[i][t]
        clipped = (r > 1 + high and a > 0) or (r < 1 - low and a < 0)
        if between[0] < (a - mean_a) * (logp[i][t] - mean_p) < between[1] and not clipped:
            eligible.append((noise[i][t], i, t))
    chosen = sorted(eligible)[: max(1, int(share * len(every)))]
    for _, i, t in chosen:
        terms[i][t] = 0.0
    return mean_of(terms, mask, "token_mean"), len(chosen), len(eligible)


def rollout(old, drawn, mask, per, action, low, high):
    """The weights, row by row."""
    found = []
    for p, q, flags in zip(old, drawn, mask, strict=True):
        logs = [x - y for x, y in zip(p, q, strict=True)]
        if per == "sequence":
            logs = [math.fsum(x for x, m in zip(logs, flags, strict=True) if m)] * len(logs)
        row = []
        for x, m in zip(logs, flags, strict=True):
            w = math.exp(cut(x, -20, 20))
            kept = cut(w, low, high) if action == "truncate" else w * (low <= w <= high)
            row.append(kept if m else 0.0)
        found.append(row)
    return found


def rejected(old, drawn, mask, criterion, low, high):
    level, _, kind = criterion.rpartition("_")
    found = []
    for p, q, flags in zip(old, drawn, mask, strict=True):
        logs = [x - y for x, y in zip(p, q, strict=True)]
        values = {
            "k1": logs,
            "k2": [0.5 * x * x for x in logs],
            "k3": [math.exp(x) - 1 - x for x in logs],
        }[kind]
        counted = [x for x, m in zip(values, flags, strict=True) if m] or [0.0]
        if level == "seq_sum":
            values = [math.fsum(counted)] * len(values)
        elif level == "seq_mean":
            values = [math.fsum(counted) / len(counted)] * len(values)
        elif level == "seq_max":
            values = [max(counted)] * len(values)
        out = [math.log(low) > x or x > math.log(high) if kind == "k1" else x > high for x in values]
        found.append([o and bool(m) for o, m in zip(out, flags, strict=True)])
    return found
