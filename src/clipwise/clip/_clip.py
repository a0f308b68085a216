"""One clip: which entries are measured together, how, and what their norm may not exceed."""

import math
from dataclasses import dataclass, fields
from typing import Literal, TypeAlias, get_args

from clipwise import thresholds
from clipwise.checks import check_number, number_where, whole
from clipwise.errors import ArgumentError, ThresholdError
from clipwise.namespace import is_traced
from clipwise.thresholds import Threshold

Per: TypeAlias = Literal["element", "unit", "tensor", "global"]
Norm: TypeAlias = float | Literal["rms"]
Action: TypeAlias = Literal["clip", "skip"]
On: TypeAlias = Literal["norm", "loss"]


@dataclass(frozen=True)
class Clip:
    """One clip: ``g <- g * min(1, threshold / norm(g))`` for each group of entries.

    Args:
        threshold: the largest norm of a group: a number of at least 0 (inf never clips), a policy from
            `clipwise.thresholds`, or for ``per="element"`` also a range ``(low, high)``. A number that is
            traced by JAX or TensorFlow is not checked; a negative one counts as 0.
        per: which entries are measured together: each ``"element"`` alone, one ``"unit"`` (one output neuron
            or filter), one ``"tensor"``, or all tensors (``"global"``).
        norm: the norm of a group: 2.0, 1.0, ``math.inf``, any order above 0, or ``"rms"``, the root mean
            square. A single entry is measured by its modulus, whatever the order.
        action: what happens if the norm is above the threshold. ``"clip"``: the gradient is clipped.
            ``"skip"``: the step is skipped, as with NaN and ``nonfinite="skip"``, and its norm enters no
            history. ``"skip"`` takes ``per="global"``, alone or first in a `chain`.
        patience: the largest number of steps in a row that ``action="skip"`` skips, at least 1. After that it
            clips to the threshold, and norms enter the history again, until a norm is within the threshold.
        on: what ``action="skip"`` compares with the threshold: the ``"norm"``, or the ``"loss"`` of the step,
            which must be given by `observe`, or as optax' ``value``. With ``"loss"``, steps after
            ``patience`` are taken without clipping, and the threshold is a number, a schedule, or a
            `thresholds.rolling_zscore`.

    Raises:
        ThresholdError: a threshold is negative, NaN or not a number, or low is above high.
        ArgumentError: ``per``, ``norm`` or ``action`` is unknown, or does not fit the others.

    >>> Clip(1.0)
    Clip(threshold=1.0, per='global', norm=2.0)
    >>> Clip(-1)
    Traceback (most recent call last):
    clipwise.errors.ThresholdError: threshold must be at least 0, got -1
    """

    threshold: float | tuple[float, float] | Threshold
    per: Per = "global"
    norm: Norm = 2.0
    action: Action = "clip"
    patience: int = 10
    on: On = "norm"

    def __repr__(self) -> str:
        """The call that creates it, without the arguments of an action that have their defaults."""
        usual = ("action", "patience", "on") if self.action == "clip" else ("on",) * (self.on == "norm")
        shown = (f"{one.name}={getattr(self, one.name)!r}" for one in fields(self) if one.name not in usual)
        return f"{type(self).__name__}({', '.join(shown)})"

    def __post_init__(self) -> None:
        if self.per not in get_args(Per):
            raise ArgumentError(f"per must be one of {', '.join(get_args(Per))}, got {self.per!r}")
        self._check_action()
        object.__setattr__(self, "norm", _order(self.norm))
        if self.per == "element" and self.norm != 2.0:
            raise ArgumentError(
                f"a single entry is measured by its modulus; norm={self.norm!r} has no effect"
            )
        if isinstance(self.threshold, type):
            raise ThresholdError(
                f"threshold must be a number or a policy, got a class; write {self.threshold.__name__}(...)"
            )
        if isinstance(self.threshold, Threshold):
            self._check_policy(self.threshold)
            self._check_policy_of_losses(self.threshold)
        elif hasattr(self.threshold, "update") and not is_traced(self.threshold):
            parts = ("init", "update", "needs", "wants", "remembers", "watches_norm")
            missing = ", ".join(part for part in parts if not hasattr(self.threshold, part))
            raise ThresholdError(f"{self.threshold!r} is not a threshold policy: it lacks {missing}")
        elif isinstance(self.threshold, tuple | list):
            object.__setattr__(self, "threshold", self._range(self.threshold))
        else:
            object.__setattr__(self, "threshold", check_number("threshold", self.threshold, traced=True))

    def _check_action(self) -> None:
        if self.action not in get_args(Action):
            raise ArgumentError(f"action must be one of {', '.join(get_args(Action))}, got {self.action!r}")
        object.__setattr__(self, "patience", whole("patience", self.patience))
        if self.action == "clip" and self.patience != Clip.patience:
            raise ArgumentError(f'patience is for action="skip", got patience={self.patience} without it')
        if self.action == "skip" and self.per != "global":
            raise ArgumentError(
                f'action="skip" skips a whole step, by the norm of all gradients: per must be "global",'
                f" got {self.per!r}"
            )

        if self.on not in get_args(On):
            raise ArgumentError(f"on must be one of {', '.join(get_args(On))}, got {self.on!r}")
        if self.action == "clip" and self.on != "norm":
            raise ArgumentError(f'on={self.on!r} is for action="skip"; action="clip" compares the norm')

    def _check_policy_of_losses(self, policy: Threshold) -> None:
        judges = policy.watches_norm and not getattr(policy, "takes_losses", False)
        if self.on == "loss" and (judges or policy.needs):
            raise ArgumentError(
                f'{policy!r} is a policy for norms: on="loss" takes a number, a schedule, or'
                " rolling_zscore(...)"
            )

    def _range(self, pair: object) -> tuple[float, float]:
        if self.per != "element":
            raise ThresholdError(
                f'a range {pair!r} only bounds single entries (per="element"); a norm has one bound'
            )
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise ThresholdError(f"a range is a pair (low, high), got {pair!r}")
        low = check_number("low", pair[0], low=-math.inf, traced=True)
        high = check_number("high", pair[1], low=-math.inf, traced=True)
        if not is_traced(low) and not is_traced(high) and low > high:
            raise ThresholdError(f"low must not exceed high, got low={low:g} and high={high:g}")
        if (not is_traced(low) and low == math.inf) or (not is_traced(high) and high == -math.inf):
            raise ThresholdError(f"no finite number lies in the range low={low}, high={high}")
        return low, high

    def _check_policy(self, policy: Threshold) -> None:
        if self.per == "element" and policy.watches_norm:
            raise ArgumentError(
                f"{policy!r} would keep a history for every single entry; value clipping takes a number,"
                ' a range, a schedule, or a policy of the loss or weights; use per="tensor" or "global"'
            )
        if "moment_ratio" in policy.needs and self.per != "tensor":
            raise ArgumentError(f'{policy!r} is for whole tensors: per must be "tensor", got {self.per!r}')
        endless = isinstance(policy, thresholds.percentile) and policy.window is None
        if self.per == "unit" and endless:
            raise ArgumentError(
                f'{policy!r} keeps a whole history, about 30 kB a group, which is too much for per="unit";'
                " give a percentile a window"
            )


def _order(norm: object) -> Norm:
    if isinstance(norm, str) and norm in ("rms", "inf"):
        return "rms" if norm == "rms" else math.inf
    return number_where("norm", norm, lambda norm: norm > 0, 'a number above 0, inf, or "rms"')
