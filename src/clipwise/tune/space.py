"""The search space: for each method the range of its one number."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from clipwise.checks import number_where
from clipwise.errors import ArgumentError, did_you_mean

if TYPE_CHECKING:
    import optuna

NONE, AUTO = "none", "auto"
RANGES: Mapping[str, tuple[float, float] | None] = {
    NONE: None,
    AUTO: None,
    "clip_by_global_norm": (1e-2, 1e2),
    "clip_by_norm": (1e-3, 1e1),
    "clip_by_value": (1e-4, 1e1),
    "adaptive_grad_clip": (1e-3, 0.3),
    "autoclip": (1.0, 95.0),
    "zclip": (1.5, 5.0),
}
"""Of each method the least and the largest number, searched on a logarithmic scale; None: it takes none."""

USUAL = (NONE, AUTO, "clip_by_global_norm", "clip_by_norm", "autoclip", "zclip")
FIRST = ({"method": NONE}, {"method": AUTO}, {"method": "clip_by_global_norm", "clip_by_global_norm": 1.0})
"""What is tried before anything else, so that the rest is compared with it."""

DIGITS = 3
"""Of a number: a threshold is not known better, and people have to read it."""


@dataclass(frozen=True)
class Candidate:
    """What one trial uses.

    Attributes:
        clip: in its string form; ``"none"`` for no clipping.
        method: the method.
        number: its threshold, ratio, percentile or z; None if it has none.
        rate: the learning rate; None: unchanged.
    """

    clip: str
    method: str
    number: float | None
    rate: float | None = None


@dataclass(frozen=True)
class Space:
    """The search space.

    Args:
        methods: some of `RANGES`.
        rates: the smallest and the largest learning rate; None: it is not searched.

    Raises:
        ArgumentError: a method is unknown, there is none, or the rates are not ascending and above 0.
    """

    methods: Sequence[str] = USUAL
    rates: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if not self.methods:
            raise ArgumentError("give at least one method")
        for method in self.methods:
            if method not in RANGES:
                raise ArgumentError(f"unknown method {method!r}. {did_you_mean(method, RANGES)}")
        if self.rates is not None:
            low, high = (number_where("rate", r, lambda r: 0 < r < math.inf, "above 0") for r in self.rates)
            if not low < high:
                raise ArgumentError(f"rate: the first must be below the second, got {low:g} and {high:g}")

    def first(self) -> list[dict[str, object]]:
        """The parameters of the first trials."""
        return [dict(one) for one in FIRST if one["method"] in self.methods]

    def choose(self, trial: "optuna.trial.Trial", tried: Collection[str] = ()) -> Candidate:
        """The candidate of a trial.

        Args:
            trial: Optuna's trial.
            tried: methods without a number, which need no second trial.
        """
        method = trial.suggest_categorical("method", list(self.methods))
        others = [one for one in self.methods if RANGES[one] is not None]
        if method in tried and others:
            method = trial.suggest_categorical("instead", others)
        ends = RANGES[method]
        number = None if ends is None else trial.suggest_float(method, *ends, log=True)
        rate = None if self.rates is None else trial.suggest_float("rate", *self.rates, log=True)
        return candidate(method, number, rate)


def candidate(method: str, number: float | None, rate: float | None = None) -> Candidate:
    """A method with its number and the learning rate, both rounded.

    >>> candidate("clip_by_global_norm", 0.123456).clip
    'clip_by_global_norm(0.123)'
    """
    number = None if number is None else float(f"{number:.{DIGITS}g}")
    rate = None if rate is None else float(f"{rate:.{DIGITS}g}")
    if method == NONE:
        return Candidate(NONE, NONE, None, rate)
    return Candidate(f"{method}()" if number is None else f"{method}({number:g})", method, number, rate)
