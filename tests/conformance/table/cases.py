"""The table: every clip of the design against every input at the edges. What compiles runs a part of it."""

import math
from collections.abc import Sequence

import numpy as np

from tests.depth import brief

CLIPS = [
    ("element", 2.0),
    *[(per, norm) for per in ("unit", "tensor", "global") for norm in (2.0, 1.0, math.inf, 3.0, 0.5, "rms")],
]
FEW = [("element", 2.0), ("unit", 2.0), ("tensor", "rms"), ("global", 2.0)]
"""For what is compiled, and for optimizers around an arithmetic that runs all of them."""
SOME = brief([*FEW, ("unit", 3.0), ("global", math.inf)], *FEW)
"""For arithmetics beside the one that runs all of them."""
BRIEF_ROWS = ("ordinary", "one zero", "missing", "large", "long")
"""For what is beside or around an arithmetic that runs all rows."""
FEW_SHAPES = brief(BRIEF_ROWS, "one zero", "missing", "large")
"""For what compiles each operation anew for each shape."""
THRESHOLDS = [0.0, 1e-3, 1.0, 1e4, math.inf]
RANGES = [(-0.5, 1.0), (-math.inf, 0.2), (0.1, math.inf), (0.0, 0.0), (0.3, 0.7)]


def inputs(dtype: str, only: Sequence[str] | None = None) -> dict[str, dict[str, np.ndarray | None]]:
    """Gradients by name for every row of the edge table that a dtype can hold, or for some of them."""
    rng = np.random.default_rng(0)

    def normal(*shape: int, scale: float = 1.0) -> np.ndarray:
        return rng.normal(0.0, scale, shape)

    rows: dict[str, dict[str, np.ndarray | None]] = {
        "ordinary": {"weight": normal(7, 5), "bias": normal(7), "scale": normal()},
        "many axes": {"conv": normal(4, 3, 2, 2), "six": normal(2, 1, 3, 1, 2, 2)},
        "all zero": {"weight": np.zeros((3, 2)), "bias": np.zeros(3)},
        "one zero": {"weight": normal(3, 2), "bias": np.zeros(3)},
        "empty": {"weight": np.zeros((0, 4)), "bias": normal(3), "columns": np.zeros((3, 0))},
        "only empty": {"weight": np.zeros((0, 4))},
        "missing": {"weight": normal(3, 2), "unused": None},
        "none at all": {"weight": None},
        "no parameters": {},
        "large": {"weight": normal(4, 4, scale=1.2e4 if dtype == "float16" else 3e20)},
        "tiny": {"weight": normal(4, 4, scale=1e-4 if dtype == "float16" else 1e-30)},
        "long": {"weight": normal(600, 500)},
    }
    if dtype == "float64":
        rows["beyond float32"] = {"weight": normal(4, 4, scale=1e200), "bias": normal(4, scale=1e-200)}
    if dtype.startswith("complex"):
        rows = {
            name: {
                k: v if v is None else v * np.exp(1j * 2.0 * np.arange(v.size).reshape(v.shape))
                for k, v in row.items()
            }
            for name, row in rows.items()
        }
    return {name: row for name, row in rows.items() if only is None or name in only}
