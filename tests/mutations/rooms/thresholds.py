"""Policies and their histories."""

from tests.mutations.breaks import Break

POLICIES = "tests/thresholds/test_policies.py"
HISTORY = "tests/thresholds/test_history.py"

BREAKS = [
    Break(
        "a percentile off by one rank",
        "src/clipwise/thresholds/_history.py",
        "rank = xp.astype(last, like.dtype) * (q / 100.0)",
        "rank = xp.astype(count, like.dtype) * (q / 100.0)",
        HISTORY,
    ),
    Break(
        "a window that forgets the wrong value",
        "src/clipwise/thresholds/_history.py",
        "(count % size)",
        "((count + 1) % size)",
        HISTORY,
    ),
    Break(
        "norms of zero enter a history",
        "src/clipwise/thresholds/_base.py",
        "& (norm >= SMALLEST)",
        "& (norm >= 0)",
        POLICIES,
    ),
    Break(
        "a spike lifts what is usual",
        "src/clipwise/thresholds/_zscore.py",
        "kept = xp.minimum(norm, threshold)",
        "kept = norm",
        POLICIES,
    ),
    Break(
        "weights of zero have a bound of zero",
        "src/clipwise/thresholds/_relative.py",
        "xp.clip(weight_norm, self.eps, None)",
        "weight_norm",
        POLICIES,
    ),
    Break(
        "a bias that is not corrected",
        "src/clipwise/thresholds/_mean.py",
        "state.average / xp.where(started, state.weight, 1.0)",
        "state.average",
        POLICIES,
    ),
    Break(
        "a way that begins anew is none",
        "src/clipwise/thresholds/_auto.py",
        "_held_by(threshold, by_history, factor, path)",
        "_held_by(threshold, by_history, factor, state.travel.path)",
        "tests/thresholds/test_auto.py",
    ),
    Break(
        "two reasons hold one threshold",
        "src/clipwise/functional/held.py",
        "_share(xp, rest & condition)",
        "_share(xp, condition)",
        "tests/functional/test_held.py",
    ),
    Break(
        "a negative threshold is taken",
        "src/clipwise/checks.py",
        "if not low <= number <= high:",
        "if not number <= high:",
        "tests/test_clip.py",
    ),
]
