"""A threshold that need not be chosen: it is learned from the run."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from clipwise.checks import SMALLEST, check_number, whole
from clipwise.errors import ArgumentError
from clipwise.namespace import Array
from clipwise.thresholds import _falling, _history, _travel
from clipwise.thresholds._base import NOTHING, Conditions, Observation, WithReasons, usable
from clipwise.thresholds._losses import ENOUGH, jumped

_PACE = 0.02  # share of a norm in the usual one, once there were 50
_MOST_MOMENTUM = 0.999  # with 1, no length would be left for a gradient to add
_FURTHEST = 1.0  # logarithm; no norm counts as further than a factor e from the usual one


class AutoState(NamedTuple):
    """The state of `auto` between two steps.

    Attributes:
        usual: logarithm of the usual norm.
        count: number of norms so far.
        losses: the most recent losses.
        falling: the smoothed loss.
        factor: factor f, which is below 1 after the loss has jumped.
        travel: distance that the weights have covered, and number of steps.
    """

    usual: Array
    count: Array
    losses: _history.History
    falling: _falling.Falling
    factor: Array
    travel: _travel.Travel


@dataclass(frozen=True)
class auto(WithReasons):
    """A threshold that is learned from the run. It bounds the length of a step and clips spikes.

    For optimizers whose step is proportional to the gradient (SGD with momentum m, from 0 to 0.999), with
    learning rate r, weights w and gradient norms n::

        u = the usual norm (see below)
        s_i = m * s_(i-1) + r * min(n_i, T_i)                     upper bound of the length of step i
        P = s_0 + s_1 + ...
        D^2 = min(P^2, max over i of max((||w_i|| - ||w_0||)^2, ||w_i||^2 - ||w_0||^2))
        S = the longest step, at least first * max(||w_0||, 0.03 * sqrt(number of weights))
        A = D^2 / (s_0^2 + s_1^2 + ... + S^2)                     about 1 for steps of random directions
        hidden: P < 4 * ||w_0|| / sqrt(number of weights), or ||w|| < ||w_0||
        a = min(max(sqrt(A), 1 if hidden else 1 / stretch), stretch);    before the first step, 1
        the loss jumps (see below):  f = max(floor, f * down),    else  f = min(1, f * max(up, a))
        hidden, and the smoothed loss is lower than ever:  a = max(a, stretch^(1 - m))
        L = f * a * S
        B = min(max((1 - m) * L, L - m * s), 3 * (1 - m) * L)     s: of the step before
        T = min(B / r, f * max(spike * u, short * (1 - m) * S / r))

    Steps that point in similar directions cover more distance than a random walk (A > 1), so they may become
    longer. Steps that cancel each other cover less, so they become shorter. If the learning rate is 0, or if
    it or the weights are unknown, ``T = f * spike * u``; a is 1 if they are unknown.

    Optimizers that divide by the size of the gradient (Adam, RMSprop, ...) do not take a shorter step for a
    smaller gradient; its norm decides how much a batch counts relative to others. There ``T = share * u``.

    The usual norm u is the geometric mean of the previous norms for the first 50 of them. After that,
    log(u) is an exponential moving average of the logarithms with weight 0.02. A norm counts as at most
    e * u and at least u / e. Before the first norm u is infinite; a norm that is NaN, Inf or 0 does not
    count. The loss jumps if it is not finite or above ``median + z * 1.4826 * MAD`` of the last
    ``window`` losses; if MAD is 0, 1.2533 times the mean absolute deviation is used in place of
    ``1.4826 * MAD``. The smoothed loss is an exponential moving average with weight 0.2. Without `observe`,
    f stays 1 and the smoothed loss is never a new minimum. The distance is measured from a new start when
    the number of weights changes and after their norm was not finite. Memory is O(1). Reasons,
    measurements and limits are in docs/auto.md.

    Args:
        first: lower bound of S, and bound of the first step, relative to the norm of the weights.
        stretch: largest factor by which the bound may be longer or shorter than the longest step so far; at
            least 1.
        spike: largest norm, in multiples of the usual norm.
        short: a norm above that is not clipped as a spike if its step, momentum included, is at most this
            share of the longest step.
        share: the threshold, in multiples of the usual norm, for optimizers that divide by the size of the
            gradient.
        floor, down, up: lower bound of the factor f, its reduction when the loss jumps, and its least growth
            per step afterwards.
        z: number of robust standard deviations above the median at which the loss counts as a jump.
        window: number of recent losses that are compared with.

    Raises:
        ThresholdError: a number is negative or NaN, or first, spike, share or floor is 0.
        ArgumentError: floor or down above 1, up or stretch below 1, or a window below 10.

    >>> import numpy as np
    >>> policy = auto()
    >>> seen = Observation(norm=np.asarray(100.0), weight_norm=10.0, weight_count=1000, learning_rate=0.1)
    >>> float(policy.update(np, policy.init(np, ()), seen)[0])  # first * ||w|| / r = .02 * 10 / .1
    2.0
    """

    first: float = 0.02
    stretch: float = 2.0
    spike: float = 3.0
    short: float = 0.1
    share: float = 0.5
    floor: float = 0.05
    down: float = 0.5
    up: float = 1.02
    z: float = 5.0
    window: int = 50

    needs: ClassVar[frozenset[str]] = NOTHING
    wants: ClassVar[frozenset[str]] = frozenset({"weight_norm", "learning_rate", "momentum", "loss"})
    remembers: ClassVar[bool] = True
    watches_norm: ClassVar[bool] = True
    reasons: ClassVar[tuple[str, ...]] = ("loss", "start", "length", "history")

    def __post_init__(self) -> None:
        for name in ("stretch", "short", "down", "up", "z"):
            object.__setattr__(self, name, check_number(name, getattr(self, name)))
        # With one of these at 0 the threshold would become 0, and stay there.
        for name in ("first", "spike", "share", "floor"):
            object.__setattr__(self, name, check_number(name, getattr(self, name), low=SMALLEST))
        if self.stretch < 1:
            raise ArgumentError(f"stretch must be at least 1, got {self.stretch:g}")
        if self.floor > 1 or self.down > 1 or self.up < 1:
            raise ArgumentError(
                "floor and down are at most 1 and up is at least 1, got"
                f" floor={self.floor:g}, down={self.down:g}, up={self.up:g}"
            )
        object.__setattr__(self, "window", whole("window", self.window, low=ENOUGH))

    def init(self, xp: Any, shape: tuple[int, ...]) -> AutoState:
        return AutoState(
            usual=xp.zeros(shape),
            count=xp.zeros(shape, dtype=xp.int32),
            losses=_history.start(xp, shape, self.window),
            falling=_falling.start(xp, shape),
            factor=xp.full(shape, 1.0),
            travel=_travel.start(xp, shape),
        )

    def update_held(
        self, xp: Any, state: AutoState, seen: Observation
    ) -> tuple[Array, AutoState, Conditions]:
        norm = xp.asarray(seen.norm)
        usual = xp.where(state.count > 0, xp.exp(state.usual), xp.inf)
        remembered = _remember(xp, state, norm)
        if seen.scale_free:
            return self.share * usual, remembered, lambda: (usual < 0, xp.isinf(usual), usual < 0)

        travel, agreement, hidden, momentum, rate = state.travel, 1.0, False, 0.0, None
        if seen.weight_norm is not None and seen.learning_rate is not None:
            size = 1 if seen.weight_count is None else xp.asarray(seen.weight_count, dtype=usual.dtype)
            weights = xp.asarray(seen.weight_norm)
            agreement, hidden, travel = _travel.look(xp, travel, weights, size, self.first, self.stretch)
            momentum = 0.0 if seen.momentum is None else seen.momentum
            known = isinstance(momentum, float | int)
            momentum = min(momentum, _MOST_MOMENTUM) if known else xp.clip(momentum, None, _MOST_MOMENTUM)
            rate = xp.asarray(seen.learning_rate, dtype=usual.dtype)

        path = travel.path
        factor, losses, falling = state.factor, state.losses, state.falling
        if seen.loss is not None:
            loss = xp.zeros_like(state.factor) + xp.asarray(seen.loss)
            jump, factor, losses = self._listen(xp, state, loss, agreement)
            lower, falling = _falling.falls(xp, state.falling, loss)
            if rate is not None:
                growth = self.stretch ** (xp.zeros_like(state.factor) + 1.0 - momentum)
                agreement = xp.where(hidden & lower & ~jump, xp.maximum(agreement, growth), agreement)
        threshold = by_history = factor * self.spike * usual
        if rate is not None:
            moves = usable(xp, rate)
            norm_of = 1.0 / xp.where(moves, rate, 1.0)
            short = factor * self.short * (1.0 - momentum) * travel.longest * norm_of
            by_history = xp.where(moves, xp.maximum(by_history, short), by_history)
            bound = _travel.room(xp, travel, factor * agreement * travel.longest, momentum) * norm_of
            threshold = xp.where(moves, xp.minimum(bound, by_history), by_history)
            push = xp.where(usable(xp, norm), rate * xp.minimum(norm, threshold), 0.0)
            travel = _travel.gone(xp, travel, push, momentum)
        after = remembered._replace(losses=losses, falling=falling, factor=factor, travel=travel)
        return threshold, after, _held_by(threshold, by_history, factor, path)

    def _listen(
        self, xp: Any, state: AutoState, loss: Array, agreement: Array | float
    ) -> tuple[Array, Array, _history.History]:
        """Whether the loss jumps; the factor, which rises with the agreement of steps; the losses with it."""
        jump, known, losses = jumped(xp, state.losses, loss, self.z)
        lowered = xp.clip(state.factor * self.down, self.floor, None)
        raised = xp.clip(
            state.factor * xp.clip(xp.zeros_like(state.factor) + agreement, self.up, None), None, 1.0
        )
        return jump, xp.where(known, xp.where(jump, lowered, raised), state.factor), losses


def _held_by(threshold: Array, by_history: Array, factor: Array, path: Array) -> Conditions:
    """Whether a jump of the loss, the start, or the length of the step holds the threshold.

    Args:
        threshold: of the step.
        by_history: what it would be without the bound on the step's length; infinite before the first norm.
        factor: what jumps of the loss have left.
        path: the steps before; 0 where there was none.
    """

    def conditions() -> tuple[Array, ...]:
        by_length = threshold < by_history
        return factor < 1, (by_length & (path == 0)) | (threshold == math.inf), by_length

    return conditions


def _remember(xp: Any, state: AutoState, norm: Array) -> AutoState:
    """The state with this norm in what is usual."""
    accept = usable(xp, norm)
    value = xp.log(xp.where(accept, norm, 1.0))
    away = xp.clip(value - state.usual, -_FURTHEST, _FURTHEST)
    pace = xp.clip(1.0 / (xp.astype(state.count, state.usual.dtype) + 1.0), _PACE, None)
    moved = xp.where(state.count > 0, state.usual + pace * away, value)
    return state._replace(
        usual=xp.where(accept, moved, state.usual), count=state.count + xp.astype(accept, xp.int32)
    )
