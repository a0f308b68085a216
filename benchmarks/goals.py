"""What is to be reached, and whether it is."""

from dataclasses import dataclass

__all__ = ["MEMORY", "NORM_ERROR", "Goal", "goal_of"]

MEMORY = 1 << 20
"""Extra bytes at the peak that every row stays below."""
NORM_ERROR = 1e-6
"""Relative error of the total norm that every row which tells one stays within."""

_NORMS = ("norm", "global", "clipper", "percentile")
_RATIOS = {  # (not clipped, clipped), float32
    "gpt2": (2.7, 1.8),
    "small": (8.0, 6.0),
    "lstm": (2.7, 1.7),
    "resnet50": (2.7, 1.7),
}
_HALF = (2.5, 1.6)
_GPU = 2.5
_AGC = 6.0
_OVER_FLOOR = 1.2
_BUSY = 1.0


@dataclass(frozen=True)
class Goal:
    """The least ratio peer / ours, and the most that ours may take over the floor; None: no goal."""

    ratio: float | None = None
    over_floor: float | None = None

    def __str__(self) -> str:
        parts = [f"≥{self.ratio:g}x"] if self.ratio is not None else []
        if self.over_floor is not None:
            parts.append(f"≤{self.over_floor:g} floors")
        return ", ".join(parts)

    def missed(
        self, ratio: float, over_floor: float | None, memory: int | None, norm_error: float | None
    ) -> list[str]:
        """What is not reached, in words; what was not measured cannot be missed."""
        found = []
        if self.ratio is not None and ratio < self.ratio:
            found.append("ratio")
        if self.over_floor is not None and over_floor is not None and over_floor > self.over_floor:
            found.append("floor")
        if memory is not None and memory >= MEMORY:
            found.append("memory")
        if norm_error is not None and not norm_error <= NORM_ERROR:
            found.append("norm")
        return found


def goal_of(
    case: str, method: str, dtype: str, clipped: bool, *, gpu: bool = False, busy: bool = False
) -> Goal:
    """The goal of a row. Two threads of a CPU are meant, or a GPU; ``busy``: others want the cores."""
    if busy:
        return Goal() if method == "attach" else Goal(_BUSY)
    large = _OVER_FLOOR if case == "gpt2" and not clipped and method in ("global", "clipper") else None
    if gpu:
        return Goal(_GPU if method in _NORMS and not clipped else None, large)
    if method in _NORMS:
        pair = _HALF if dtype == "bf16" else _RATIOS[case]
        return Goal(pair[clipped], large if dtype == "fp32" else None)
    if method == "agc" and not clipped:
        return Goal(_AGC)
    if method == "value" and clipped:
        return Goal({"small": 4.0, "lstm": None}.get(case, 1.0))
    return Goal()
