"""Thresholds that depend on the step number only: high at the start of a run, say, and low at its end."""

import math
import numbers
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from clipwise.checks import check_number, whole
from clipwise.errors import ArgumentError, ThresholdError
from clipwise.namespace import Array
from clipwise.thresholds._base import NOTHING, Observation, Stateless


@dataclass(frozen=True)
class _Schedule:
    """From ``start`` to ``stop`` over ``steps`` steps, constant after that."""

    start: float
    stop: float
    steps: int

    needs: ClassVar[frozenset[str]] = NOTHING
    wants: ClassVar[frozenset[str]] = NOTHING
    remembers: ClassVar[bool] = True
    watches_norm: ClassVar[bool] = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "start", check_number("start", self.start))
        object.__setattr__(self, "stop", check_number("stop", self.stop))
        if math.inf in (self.start, self.stop):
            raise ThresholdError(
                f"a schedule needs finite ends, got start={self.start:g} and stop={self.stop:g}"
            )
        object.__setattr__(self, "steps", whole("steps", self.steps))

    def init(self, xp: Any, shape: tuple[int, ...]) -> Stateless:
        return Stateless()

    def update(self, xp: Any, state: Stateless, seen: Observation) -> tuple[Array, Stateless]:
        # An integer that a framework traces would be divided in the narrowest float.
        step = xp.astype(xp.asarray(seen.step), xp.asarray(seen.norm).dtype)
        progress = xp.clip(step / self.steps, 0.0, 1.0)
        return self._at(xp, progress), state

    def _at(self, xp: Any, progress: Array) -> Array:
        raise TypeError("use linear, cosine or exponential")


@dataclass(frozen=True)
class linear(_Schedule):
    """Linear schedule: ``T_t = start + (stop - start) * min(t / steps, 1)``, t = 0 in the first step.

    >>> import numpy as np
    >>> policy = linear(5.0, 1.0, steps=100)
    >>> float(policy.update(np, policy.init(np, ()), Observation(norm=0.0, step=50))[0])
    3.0
    """

    def _at(self, xp: Any, progress: Array) -> Array:
        return self.start + (self.stop - self.start) * progress


@dataclass(frozen=True)
class cosine(_Schedule):
    """Cosine schedule: ``T_t = stop + (start - stop) * (1 + cos(pi * min(t / steps, 1))) / 2``.

    Source: Loshchilov and Hutter 2017, arXiv:1608.03983, where it is a schedule of the learning rate.

    >>> import numpy as np
    >>> policy = cosine(5.0, 1.0, steps=100)
    >>> float(policy.update(np, policy.init(np, ()), Observation(norm=0.0, step=0))[0])
    5.0
    """

    def _at(self, xp: Any, progress: Array) -> Array:
        return self.stop + (self.start - self.stop) * (1.0 + xp.cos(math.pi * progress)) / 2.0


@dataclass(frozen=True)
class exponential(_Schedule):
    """Exponential schedule: ``T_t = start * (stop / start) ** min(t / steps, 1)``; both ends are above 0.

    >>> import numpy as np
    >>> policy = exponential(4.0, 1.0, steps=100)
    >>> float(policy.update(np, policy.init(np, ()), Observation(norm=0.0, step=50))[0])
    2.0
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.start > 0 and self.stop > 0):
            raise ThresholdError(
                f"exponential needs start and stop above 0, got start={self.start:g} and stop={self.stop:g}"
            )

    def _at(self, xp: Any, progress: Array) -> Array:
        return self.start * xp.exp(math.log(self.stop / self.start) * progress)


@dataclass(frozen=True)
class schedule:
    """A schedule given as a function: ``T_t = function(t)``, t = 0 in the first step.

    In `clipwise.torch` t is a Python int. In the other back ends it is a 0-d integer array, which is traced
    in a compiled step. A result that is a Python number must be at least 0; otherwise ThresholdError is
    raised. A result that is an array is not checked, since that would need a host-device sync.

    >>> import numpy as np
    >>> policy = schedule(lambda step: 5.0 if step < 1000 else 1.0)
    >>> policy.update(np, policy.init(np, ()), Observation(norm=0.0, step=2000))[0]
    1.0
    """

    function: Callable[[Any], Any]

    needs: ClassVar[frozenset[str]] = NOTHING
    wants: ClassVar[frozenset[str]] = NOTHING
    remembers: ClassVar[bool] = True
    watches_norm: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise ArgumentError(f"schedule takes a function of the step, got {self.function!r}")

    def init(self, xp: Any, shape: tuple[int, ...]) -> Stateless:
        return Stateless()

    def update(self, xp: Any, state: Stateless, seen: Observation) -> tuple[Array, Stateless]:
        known = isinstance(seen.step, numbers.Real | np.ndarray)
        step = int(seen.step) if known else xp.astype(seen.step, xp.int32)
        value = self.function(step)
        if isinstance(value, numbers.Number | np.generic | np.ndarray | str) or value is None:
            value = check_number(f"the threshold that the schedule gave for step {step}", value)
        return value, state
