"""A threshold that need not be chosen: it is learned from the run."""

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from clipwise.checks import check_number, whole
from clipwise.errors import ArgumentError
from clipwise.namespace import Array
from clipwise.thresholds import _history
from clipwise.thresholds._base import NOTHING, Observation, usable
from clipwise.thresholds._losses import ENOUGH, jumped

_RECENT = 1000  # norms whose median caps what may enter the history
_CAP_FROM = 5  # norms before the cap acts
_SCALE_FREE_RECENT = 200
_SCALE_FREE_WARMUP = 20
_SCALE_FREE_FACTOR = 5.0
_SMALLEST_WEIGHT = 1e-3  # root mean square that weights are taken to have at least


class AutoState(NamedTuple):
    """What is remembered; the optimizer says which of the two histories of norms is in use.

    Attributes:
        norms: the capped norms, all and the last.
        recent: the last norms as they were, for optimizers that divide by the gradient's own size.
        losses: the last losses.
        factor: by which jumps of the loss lower the threshold.
    """

    norms: _history.History
    recent: _history.History
    losses: _history.History
    factor: Array


@dataclass(frozen=True)
class auto:
    """Learned from the run: a capped percentile, within bounds relative to the weights, lower after jumps.

    For optimizers whose step is proportional to the gradient (SGD, with or without momentum)::

        R = max(||w||, 1e-3 * sqrt(number of weights)) * (1 - momentum) / learning rate
        the norm enters the history as min(n, cap * median of the last 1000 in it), from 5 norms on
        t = min(max(P_q(history), low * R), high * R)
        the loss jumps (see below):  f = max(floor, f * down),   else  f = min(1, f * up)
        T = max(low * R, f * t)

    So a clipped step moves the weights by at most ``high`` and may always move them by ``low`` of their norm.
    While the learning rate is 0 there is no R, and T = f * P_q(history). A loss jumps if it is not finite or
    above ``median + z * 1.4826 * MAD`` of the last ``window`` losses; without `observe`, f stays 1.

    For optimizers that divide by the gradient's own size (Adam, RMSprop, ...) nothing is clipped for the
    first 20 norms; then ``T = 5 * median of the last 200``: only spikes, which would spoil the averages.

    Args:
        low, high: bounds of a clipped step relative to the weights' norm.
        q: percentile of the history, 0 to 100.
        cap: how many medians a norm may count for in the history.
        floor, down, up: range and pace of the factor f.
        z: how many robust standard deviations of the loss are still usual.
        window: number of losses that count as recent.

    The history is bounded (see `percentile`). A norm that is NaN, Inf or exactly 0 never enters.

    >>> import numpy as np
    >>> policy = auto()
    >>> seen = Observation(norm=np.asarray(100.0), weight_norm=10.0, weight_count=1000, learning_rate=1.0)
    >>> float(policy.update(np, policy.init(np, ()), seen)[0])  # high * R = .1 * 10
    1.0
    """

    low: float = 0.005
    high: float = 0.1
    q: float = 90.0
    cap: float = 10.0
    floor: float = 0.05
    down: float = 0.5
    up: float = 1.02
    z: float = 3.0
    window: int = 100

    needs: ClassVar[frozenset[str]] = NOTHING
    wants: ClassVar[frozenset[str]] = frozenset({"weight_norm", "learning_rate", "momentum", "loss"})
    remembers: ClassVar[bool] = True
    watches_norm: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name in ("low", "high", "cap", "floor", "down", "up", "z"):
            object.__setattr__(self, name, check_number(name, getattr(self, name)))
        object.__setattr__(self, "q", check_number("q", self.q, high=100.0))
        if self.low > self.high:
            raise ArgumentError(f"low must not exceed high={self.high:g}, got {self.low:g}")
        if self.floor > 1 or self.down > 1 or self.up < 1:
            raise ArgumentError(
                "floor and down are at most 1 and up is at least 1, got"
                f" floor={self.floor:g}, down={self.down:g}, up={self.up:g}"
            )
        object.__setattr__(self, "window", whole("window", self.window, low=ENOUGH))

    def init(self, xp: Any, shape: tuple[int, ...]) -> AutoState:
        return AutoState(
            norms=_history.start(xp, shape, _RECENT, whole=True),
            recent=_history.start(xp, shape, _SCALE_FREE_RECENT),
            losses=_history.start(xp, shape, self.window),
            factor=xp.full(shape, 1.0),
        )

    def update(self, xp: Any, state: AutoState, seen: Observation) -> tuple[Array, AutoState]:
        norm = xp.asarray(seen.norm)
        if seen.scale_free:
            recent = _history.add(xp, state.recent, norm, usable(xp, norm))
            usual = _history.percentile_of(xp, recent, 50.0)
            threshold = xp.where(recent.count > _SCALE_FREE_WARMUP, _SCALE_FREE_FACTOR * usual, xp.inf)
            return threshold, state._replace(recent=recent)

        norms, usual = self._remember(xp, state.norms, norm)
        factor, losses = self._listen(xp, state, seen.loss)
        reach = _reach(xp, seen)
        if reach is None:
            threshold = factor * usual
        else:
            known = reach > 0
            bounded = xp.minimum(xp.maximum(usual, self.low * reach), self.high * reach)
            bounded = xp.maximum(self.low * reach, factor * bounded)
            threshold = xp.where(known, bounded, factor * usual)
        return threshold, AutoState(norms, state.recent, losses, factor)

    def _remember(self, xp: Any, norms: _history.History, norm: Array) -> tuple[_history.History, Array]:
        """The history with the capped norm in it, and its percentile."""
        limit = self.cap * _history.percentile_of_sorted(xp, norms.ordered, norms.count, 50.0)
        capped = xp.where(norms.count >= _CAP_FROM, xp.minimum(norm, limit), norm)
        norms = _history.add(xp, norms, capped, usable(xp, norm))
        return norms, _history.percentile_of(xp, norms, self.q)

    def _listen(self, xp: Any, state: AutoState, loss: Array | None) -> tuple[Array, _history.History]:
        """The factor after this loss, and the losses with it."""
        if loss is None:
            return state.factor, state.losses
        jump, known, losses = jumped(xp, state.losses, xp.zeros_like(state.factor) + xp.asarray(loss), self.z)
        lowered = xp.clip(state.factor * self.down, self.floor, None)
        raised = xp.clip(state.factor * self.up, None, 1.0)
        return xp.where(known, xp.where(jump, lowered, raised), state.factor), losses


def _reach(xp: Any, seen: Observation) -> Array | None:
    """R: the norm of a gradient whose step would be as long as the weights; 0 where it cannot be told."""
    if seen.weight_norm is None or seen.learning_rate is None:
        return None
    weights = xp.asarray(seen.weight_norm)
    if seen.weight_count is not None:
        weights = xp.maximum(
            weights, _SMALLEST_WEIGHT * xp.sqrt(xp.asarray(seen.weight_count, dtype=weights.dtype))
        )
    momentum = 0.0 if seen.momentum is None else seen.momentum
    rate = xp.asarray(seen.learning_rate, dtype=weights.dtype) / (1.0 - momentum)
    return xp.where(rate > 0, weights / xp.where(rate > 0, rate, 1.0), xp.zeros_like(weights))
