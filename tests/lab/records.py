"""Records made up for the tests: each figure of them is known beforehand."""

import math
from collections.abc import Sequence

from clipwise.lab.record import Evaluation, RunRecord


def record(
    *,
    label: str = "no clipping",
    clip: str | None = None,
    role: str = "baseline",
    seed: int = 0,
    loss: Sequence[float] = (4.0, 3.0, 2.0, 1.0),
    norm: Sequence[float] | None = None,
    threshold: float = math.inf,
    fraction: Sequence[float] | None = None,
    held_out: Sequence[float] = (),
    metric: str = "bits",
    lower_is_better: bool = True,
    interrupted: bool = False,
    skipped_steps: int = 0,
) -> RunRecord:
    """A run of these losses; evaluations are spread evenly and the last one is after the last step."""
    steps = len(loss)
    norms = [1.0] * steps if norm is None else list(norm)
    fractions = [float(n > threshold) for n in norms] if fraction is None else list(fraction)
    evaluations = [
        Evaluation((i + 1) * steps // len(held_out), (i + 1) * steps // len(held_out) * 0.5, {metric: value})
        for i, value in enumerate(held_out)
    ]
    return RunRecord(
        label=label,
        clip=clip,
        role=role,
        seed=seed,
        metric=metric,
        lower_is_better=lower_is_better,
        steps={
            "loss": list(loss),
            "norm": norms,
            "norm_after": [min(n, threshold) for n in norms],
            "threshold": [threshold] * steps,
            "clip_fraction": fractions,
            "nonfinite": [0.0 if math.isfinite(n) else 1.0 for n in norms],
        },
        evaluations=evaluations,
        seconds=0.5 * steps,
        skipped_steps=skipped_steps,
        interrupted=interrupted,
    )


def clipped(label: str = "clip_by_global_norm(0.5)", role: str = "given", **changes: object) -> RunRecord:
    """A run with a clip of that label."""
    changes.setdefault("threshold", 0.5)
    return record(label=label, clip=label, role=role, **changes)  # type: ignore[arg-type]
