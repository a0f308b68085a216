"""A threshold at a percentile of all norms so far (AutoClip)."""

from dataclasses import dataclass
from typing import Any, ClassVar

from clipwise.checks import check_number, whole
from clipwise.namespace import Array
from clipwise.thresholds import _history
from clipwise.thresholds._base import NOTHING, Observation, usable


@dataclass(frozen=True)
class percentile:
    """The q-th percentile of all norms so far, the current one included: ``T_t = P_q(n_1, ..., n_t)``.

    With a high q only unusual gradients are clipped, but a series of exploded norms enters the history and
    raises the threshold. With AutoClip's q = 10 nearly every step is clipped, and explosions do not raise the
    threshold.

    Args:
        q: the percentile, 0 to 100.
        window: number of recent norms that count; None for all. A window is exact and takes two floats per
            norm. Without one, the percentile is exact up to 1,000 norms. After that, norms are counted in
            bins, and the threshold is exact to 0.5 per cent (for norms from 1e-12 to 1e12). Memory is
            bounded, about 30 kB per group however long the run.

    While the history is empty the threshold is the norm itself, so the first step is never clipped. A norm
    that is NaN, Inf or exactly 0 is not added to the history.

    Source: Seetharaman et al. 2020, arXiv:2007.14469; with linear interpolation, as in ``numpy.percentile``.

    >>> import numpy as np
    >>> policy = percentile(50)
    >>> state = policy.init(np, ())
    >>> for norm in (1.0, 2.0, 9.0):
    ...     threshold, state = policy.update(np, state, Observation(norm=np.asarray(norm)))
    >>> float(threshold)
    2.0
    """

    q: float = 10.0
    window: int | None = None

    needs: ClassVar[frozenset[str]] = NOTHING
    wants: ClassVar[frozenset[str]] = NOTHING
    remembers: ClassVar[bool] = True
    watches_norm: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "q", check_number("q", self.q, high=100.0))
        if self.window is not None:
            object.__setattr__(self, "window", whole("window", self.window))

    def init(self, xp: Any, shape: tuple[int, ...]) -> _history.History:
        return _history.start(xp, shape, self.window)

    def update(self, xp: Any, state: _history.History, seen: Observation) -> tuple[Array, _history.History]:
        norm = xp.asarray(seen.norm)
        state = _history.add(xp, state, norm, usable(xp, norm))
        return _history.percentile_of(xp, state, self.q), state
