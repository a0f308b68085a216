"""A threshold that need not be chosen: it is learned from the run."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from clipwise.checks import check_number, whole
from clipwise.errors import ArgumentError
from clipwise.namespace import Array
from clipwise.thresholds import _falling, _history, _travel
from clipwise.thresholds._base import NOTHING, Conditions, Observation, WithReasons, usable
from clipwise.thresholds._losses import ENOUGH, jumped

_PACE = 0.02  # share of a norm in the usual one, once there were 50
_FURTHEST = 1.0  # logarithm; no norm counts as further than a factor e from the usual one


class AutoState(NamedTuple):
    """What is remembered.

    Attributes:
        usual: the logarithm of the usual norm.
        count: how many norms there were.
        losses: the last losses.
        falling: the smoothed loss.
        factor: by which jumps of the loss shorten the steps.
        travel: how far the weights have come, and by how many steps.
    """

    usual: Array
    count: Array
    losses: _history.History
    falling: _falling.Falling
    factor: Array
    travel: _travel.Travel


@dataclass(frozen=True)
class auto(WithReasons):
    """Learned from the run: steps as long as the distance that they cover warrants, and no spikes.

    For optimizers whose step is proportional to the gradient (SGD, with or without momentum m), with learning
    rate r, weights w, norms n::

        u = the usual norm (see below)
        s_i = m * s_(i-1) + r * min(n_i, T_i)                     how long step i was at most
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

    Steps that agree cover more than a random walk does (A > 1), and may become longer; steps that undo each
    other cover less, and become shorter. While the learning rate is 0, and where it or the weights are not
    known, ``T = f * spike * u``, and a is 1 where they are not known.

    For optimizers that divide by the gradient's own size (Adam, RMSprop, ...) a shorter gradient does not
    make a shorter step, but says how much a batch counts beside others: ``T = share * u``.

    The usual norm u is the geometric mean of the first 50 norms before this one, then their exponential
    moving average with weight 0.02, where a norm counts as at most e times u and at least u / e; before the
    first norm it is infinite. A norm that is NaN, Inf or exactly 0 does not count. A loss jumps if it is not
    finite or above ``median + z * 1.4826 * MAD`` of the last ``window`` losses; the smoothed loss gives each
    a weight of 0.2. Without `observe`, f stays 1 and no loss is lower. The distance is measured anew when the
    number of weights changes. Memory is O(1). Reasons, measurements and limits are in docs/auto.md.

    Args:
        first: the longest step before steps agree, relative to the weights' norm.
        stretch: by how much steps may be longer than the longest before, or must be shorter; at least 1.
        spike: how many usual norms a norm may be.
        short: a norm is no spike if it makes a step of at most this share of the longest, momentum included.
        share: the threshold in usual norms where the optimizer divides by the gradient's own size.
        floor, down, up: range and pace of the factor f.
        z: how many robust standard deviations of the loss are still usual.
        window: number of losses that count as recent.

    Raises:
        ThresholdError: a number is negative or not finite.
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
        for name in ("stretch", "spike", "short", "share", "floor", "down", "up", "z"):
            object.__setattr__(self, name, check_number(name, getattr(self, name)))
        # With a first step of 0 there would be none after it.
        object.__setattr__(self, "first", check_number("first", self.first, low=math.ulp(0.0)))
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
            moves = rate > 0
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
