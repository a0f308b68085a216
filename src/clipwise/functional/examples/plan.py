"""A clip laid out over parameters, for the gradient of each example: from norms to coefficients."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from clipwise.clip import AnyClip
from clipwise.errors import ArgumentError
from clipwise.functional import scaling
from clipwise.functional.context import StepContext
from clipwise.functional.examples.report import ExampleReport
from clipwise.functional.examples.sensitivity import bound
from clipwise.functional.layout import Places
from clipwise.functional.measure import Measure
from clipwise.functional.plan import Plan, make_plan
from clipwise.functional.scaling import order_of
from clipwise.functional.slots import Slot
from clipwise.functional.stage import Stage
from clipwise.namespace import Array, Namespace
from clipwise.thresholds import automatic

__all__ = ["Clipped", "ExamplePlan", "fold_rows"]


@dataclass(frozen=True)
class Clipped:
    """What a clip does to some examples.

    Attributes:
        coefficients: of each example and parameter, ``(examples, parameters)``.
        groups: for each single clip the norms that it saw, ``(examples, *shape of its threshold)``.
        joints: for each single clip the norm of everything that it saw, ``(examples,)``.
    """

    coefficients: Array
    groups: tuple[Array, ...]
    joints: tuple[Array, ...]


class ExamplePlan:
    """The same clip for the gradient of every example of a step; holds nothing that changes.

    All examples of a step have one threshold, which follows from the steps before it, so it depends neither
    on their order nor on how they are divided into micro-batches.

    Args:
        clip: by global norm or by tensor, `chain` and `by_name` of such.
        slots: of the parameters.
        later: they are what others have become; see `make_plan`.

    Attributes:
        plan: the same over one gradient, whose states these are.
        orders: the orders p of the norms that it asks for.
        learns: whether its thresholds depend on the norms of the examples, so that no sensitivity is known.
    """

    def __init__(self, clip: AnyClip, slots: Sequence[Slot], *, later: bool = False) -> None:
        self.slots = tuple(slots)
        self.plan = make_plan(clip, self.slots, later=later)
        self._placed = tuple(_placed(self.plan, tuple(range(len(self.slots)))))
        kept = [stage.thresholds.policy for stage, _ in self._placed]
        self.learns = any(p is not None and p.watches_norm and not isinstance(p, automatic) for p in kept)
        self.learns_one_by_one = any(
            p is not None and p.remembers and not hasattr(p, "update_many") for p in kept
        )
        self.orders = tuple(dict.fromkeys([order_of(stage.clip.norm) for stage, _ in self._placed]))

    def thresholds(
        self, xp: Namespace, weights: Measure | None, state: Any, context: StepContext
    ) -> tuple[Array, ...]:
        """The thresholds of this step, one for each single clip: 0-d, or one a tensor."""
        return tuple(
            stage.thresholds.before(xp, weights and weights.part(columns), own, context)
            for (stage, columns), own in zip(self._placed, self.plan.states(state), strict=True)
        )

    def clipped(self, xp: Namespace, norms: Mapping[float, Array], thresholds: Sequence[Array]) -> Clipped:
        """The coefficients of some examples.

        Args:
            xp: of the norms.
            norms: for each of the `orders` p the p-norms of each example's gradient, by parameter:
                ``(examples, parameters)``.
            thresholds: of this step.
        """
        any_norms = next(iter(norms.values()))
        coefficients = xp.zeros(any_norms.shape) + 1.0
        groups, joints = [], []
        for (stage, columns), threshold in zip(self._placed, thresholds, strict=True):
            own = norms[order_of(stage.clip.norm)] * coefficients
            if len(columns) < len(self.slots):
                own = xp.take(own, _index(xp, columns), axis=1)
            joint = joined(xp, own, order_of(stage.clip.norm))
            sizes = [self.slots[place].size for place in columns]
            if stage.clip.norm == "rms":
                joint = joint / math.sqrt(max(1, sum(sizes)))
                own = _by_root(xp, own, sizes)
            whole = stage.clip.per == "global"
            seen = joint if whole else own
            factor = _factor(xp, stage, seen, threshold)
            groups.append(seen)
            joints.append(joint)
            coefficients = coefficients * self._spread(xp, factor[:, None] if whole else factor, columns)
        return Clipped(coefficients, tuple(groups), tuple(joints))

    def learned(
        self,
        xp: Namespace,
        weights: Measure | None,
        state: Any,
        context: StepContext,
        seen: Sequence[tuple[Array, Array]],
        fold: Callable[..., Any],
    ) -> Any:
        """The state after a step.

        Args:
            seen: for each single clip `Clipped.groups` and `Clipped.joints` of all examples of the step.
            fold: as for `GroupThresholds.learned`.
        """
        states = [
            stage.thresholds.learned(
                xp, weights and weights.part(columns), own, context, groups, joints, fold
            )
            for (stage, columns), own, (groups, joints) in zip(
                self._placed, self.plan.states(state), seen, strict=True
            )
        ]
        return self.plan.joined(iter(states))

    def report(
        self,
        xp: Namespace,
        norms: Mapping[float, Array],
        coefficients: Array,
        thresholds: Sequence[Array],
        *,
        losses: Array,
        keys: Sequence[Any] | None = None,
        mask: Array | None = None,
    ) -> ExampleReport:
        """What was done to the examples of a step; arguments as for `clipped` and `ExampleReport`."""
        order = order_of(self.plan.norm)
        order = order if order in norms else self.orders[0]
        own = norms[order]
        whole, after = joined(xp, own, order), joined(xp, own * coefficients, order)
        if self.plan.norm == "rms":
            sizes = [slot.size for slot in self.slots]
            root = math.sqrt(max(1, sum(sizes)))
            whole, after, own = whole / root, after / root, _by_root(xp, own, sizes)
        return ExampleReport(
            losses=losses,
            norms=whole,
            norms_after=after,
            threshold=xp.min(xp.stack([xp.min(one) for one in thresholds])),
            tensor_norms=own,
            names=tuple(slot.name for slot in self.slots),
            keys=keys,
            mask=mask,
        )

    def sensitivity(self, xp: Namespace, thresholds: Sequence[Array]) -> Array:
        """The largest 2-norm that the clipped gradient of an example may have, 0-d; inf: nothing bounds it.

        Raises:
            ArgumentError: a threshold follows the norms of the examples, or a norm bounds no 2-norm.
        """
        if self.learns:
            policy = next(
                stage.thresholds.policy
                for stage, _ in self._placed
                if stage.thresholds.policy is not None and stage.thresholds.policy.watches_norm
            )
            raise ArgumentError(
                f"{policy!r} follows the norms of the examples, so its threshold depends on them and the"
                " sensitivity is unknown: use a number, a schedule, relative or automatic"
            )
        return bound(xp, self.plan, iter(zip(self._placed, thresholds, strict=True)), self.slots)

    @property
    def bounded(self) -> bool:
        """Whether every parameter has a clip that is not given as infinite; known without an array."""
        xp = Namespace.bound(np.float64)
        limits = [xp.full((), _limit(stage)) for stage, _ in self._placed]
        found = bound(xp, self.plan, iter(zip(self._placed, limits, strict=True)), self.slots)
        return math.isfinite(found)

    def _spread(self, xp: Namespace, factor: Array, columns: Places) -> Array:
        """Factors of some parameters as those of all, 1 for the others."""
        if len(columns) == len(self.slots):
            return factor
        where = {place: number for number, place in enumerate(columns)}
        ones = xp.zeros((factor.shape[0], 1)) + 1.0
        if factor.shape[1] == 1:  # one for all of them
            where = dict.fromkeys(columns, 0)
        last = factor.shape[1]
        index = _index(xp, [where.get(place, last) for place in range(len(self.slots))])
        return xp.take(xp.concat([factor, ones], axis=1), index, axis=1)


def joined(xp: Namespace, norms: Array, p: float) -> Array:
    """The p-norm of each row of p-norms, ``(rows,)``; divided by the largest first, so no power is lost."""
    if not norms.shape[1]:
        return xp.zeros((norms.shape[0],))
    largest = xp.max(norms, axis=1)
    if p == math.inf:
        return largest
    divisor = xp.where((largest > 0) & (largest < math.inf), largest, 1.0)
    powers = scaling.powers(xp, norms / divisor[:, None], p)
    return divisor * scaling.root(xp, xp.sum(powers, axis=1), p)


def _by_root(xp: Namespace, norms: Array, sizes: Sequence[int]) -> Array:
    """The root mean squares of parameters of these sizes, from their 2-norms."""
    return norms / xp.asarray([math.sqrt(max(1, size)) for size in sizes], dtype=norms.dtype)


def _limit(stage: Stage) -> float:
    """Inf for a threshold that is given as infinite, otherwise 1."""
    policy = stage.thresholds.policy
    given = (stage.clip.threshold,) if policy is None else vars(policy).values()
    return math.inf if any(isinstance(one, float) and one == math.inf for one in given) else 1.0


def fold_rows(function: Callable[[Any, Any], Any], state: Any, arrays: Sequence[Array]) -> Any:
    """The state after a function of a state and a row of each array, one row after the other."""
    for rows in zip(*arrays, strict=True):
        state = function(state, rows)
    return state


def _placed(plan: Plan, columns: Places) -> Iterator[tuple[Stage, Places]]:
    """Every single clip with the places of its parameters, in the order of the states."""
    if not plan.plans:
        yield next(iter(plan.stages())), columns
    shares = getattr(plan, "shares", None)
    for number, part in enumerate(plan.plans):
        own = columns if shares is None else tuple(columns[place] for place in shares[number])
        yield from _placed(part, own)


def _factor(xp: Namespace, stage: Stage, norms: Array, threshold: Array) -> Array:
    if isinstance(stage.thresholds.policy, automatic):
        return stage.thresholds.policy.coefficient(norms)
    return scaling.coefficient(xp, norms, threshold)


def _index(xp: Namespace, places: Sequence[int]) -> Array:
    return xp.asarray(list(places), dtype=xp.int32)
