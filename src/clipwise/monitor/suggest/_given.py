"""What a suggestion is made from, checked before anything is computed."""

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from clipwise.clip import AnyClip, Norm
from clipwise.errors import ArgumentError
from clipwise.monitor._numbers import floats
from clipwise.monitor.store import Floats, Series
from clipwise.namespace import framework_of, on_host

Positions: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True)
class Given:
    """One run, as far as it is known; ``n`` norms in the order of the steps.

    Attributes:
        norms: ``(n,)``, before clipping.
        losses: ``(m,)``; empty where none are known.
        loss_at: ``(m,)``, at which of the norms each loss was seen, ascending.
        kind: of the model, one of the known ones, or None.
        order: of the norm.
        thresholds: ``(n,)``, in force while the norms were recorded; inf where nothing was bounded.
        clipped: ``(n,)``, whether anything was clipped.
        clip: what did that, where it is known.
        steps: ``(n,)``, the number of each norm's step; 1, 2, ... where it is None.
        unknown: whether something clipped of which it is not known what it was; `order` is a guess then.
        after: ``(n,)``, the norms after clipping.
    """

    norms: Floats
    losses: Floats
    loss_at: Positions
    kind: str | None = None
    order: Norm = 2.0
    thresholds: Floats | None = None
    clipped: NDArray[np.bool_] | None = None
    clip: AnyClip | None = None
    steps: Positions | None = None
    unknown: bool = False
    after: Floats | None = None

    def step(self, place: int) -> int:
        """The number of the step of one norm."""
        return place + 1 if self.steps is None else int(self.steps[place])

    @property
    def clipped_share(self) -> float:
        """Of the finite norms, how many were clipped; 0 where nothing is known of a clip."""
        if self.clipped is None:
            return 0.0
        finite = np.isfinite(self.norms)
        return float(np.mean(self.clipped[finite])) if finite.any() else 0.0


def numbers_of(name: str, values: Any, *, least: float = -np.inf) -> Floats:
    """A vector of any library, a list, or a `Series`, as float64; NaN and Inf stay.

    Raises:
        ArgumentError: these are no numbers, there are none, they are no vector, or one is below ``least``.
    """
    if isinstance(values, Series):
        values = values.values
    if isinstance(values, str | bytes) or np.isscalar(values) or values is None:
        raise ArgumentError(f"{name} must be a list or a vector of numbers, got {values!r}")
    try:
        found = _vector(values)
    except (TypeError, ValueError, OverflowError) as error:
        raise ArgumentError(f"{name} must be a list or a vector of real numbers: {error}") from error
    if found.ndim != 1:
        raise ArgumentError(f"{name} must be a vector, got the shape {found.shape}")
    if not len(found):
        raise ArgumentError(f"{name} is empty: there is nothing to judge by")
    below = np.flatnonzero(found < least)
    if len(below):
        raise ArgumentError(
            f"{name} must be at least {least:g}, got {found[below[0]]:g} at place {int(below[0])}"
        )
    return found


def thresholds_of(values: Any, norms: Floats) -> Floats:
    """Thresholds in force, one for each norm or one for all.

    Raises:
        ArgumentError: as for `numbers_of`, one is NaN, or there are not as many as norms.
    """
    if np.ndim(values) == 0 and not isinstance(values, str):
        values = [values]
    found = numbers_of("thresholds", values, least=0.0)
    if np.isnan(found).any():
        raise ArgumentError("thresholds must be numbers of at least 0, got NaN")
    if len(found) not in (1, len(norms)):
        raise ArgumentError(f"there are {len(found)} thresholds for {len(norms)} norms: give one, or as many")
    return np.broadcast_to(found, norms.shape)


def _vector(values: Any) -> Floats:
    if isinstance(values, list | tuple) and any(framework_of(value) == "torch" for value in values):
        return floats(values)
    raw = on_host(values)
    if raw.dtype.kind in "USbcmM":
        raise TypeError(f"got {raw.dtype.name} values")
    if raw.dtype == object and any(isinstance(value, str | bytes | bool) for value in raw.flat):
        raise TypeError("got texts or truth values among them")
    return raw.astype(np.float64)
