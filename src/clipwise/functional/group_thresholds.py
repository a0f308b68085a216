"""The threshold of one clip at work: a number, or what a policy says of the groups that it is shown."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from clipwise.clip import Clip
from clipwise.functional.context import StepContext
from clipwise.functional.held import held_by, held_by_number
from clipwise.functional.measure import Measure
from clipwise.functional.slots import Slot
from clipwise.namespace import Array, Namespace, is_traced
from clipwise.thresholds import Observation, Threshold, WithReasons

__all__ = ["GroupThresholds", "map_state"]


class GroupThresholds:
    """Gives the threshold of each group and the policy's next state; it holds nothing that changes.

    Args:
        clip: whose threshold it is.
        slots: all parameters that it may ever see, in the order of the state.

    Attributes:
        policy: None for a number or a range.
        by_entry: whether each entry has a bound of its own, by what its weight says.
        counts: how many groups each parameter has; None where there is one threshold for all.
        reasons: what may hold the threshold, as the report names it; none of bounds of single entries, nor of
            a loss.
    """

    def __init__(self, clip: Clip, slots: Sequence[Slot]) -> None:
        self.clip = clip
        self.slots = slots
        self.policy = clip.threshold if isinstance(clip.threshold, Threshold) else None
        self.traced = is_traced(clip.threshold)  # a number that nobody could check
        self.needs: frozenset[str] = self.policy.needs if self.policy else frozenset()
        self.sees: frozenset[str] = self.policy.needs | self.policy.wants if self.policy else frozenset()
        if clip.on == "loss":
            self.needs, self.sees = self.needs | {"loss"}, self.sees | {"loss"}
        self.by_entry = clip.per == "element" and "weight_norm" in self.needs
        self.counts: list[int] | None = None
        if self.by_entry:
            self.counts = [slot.size for slot in slots]
        elif clip.per in ("unit", "tensor"):
            self.counts = [slot.units if clip.per == "unit" else 1 for slot in slots]
        told = not self.by_entry and clip.on == "norm"
        self.reasons: tuple[str, ...] = WithReasons.of(self.policy) if told else ()
        # As a guide to how far a step may go, not as the threshold itself: embeddings would dominate.
        guides = tuple(place for place, slot in enumerate(slots) if not slot.embedding)
        self._weighed = guides if guides and "weight_norm" not in self.needs else tuple(range(len(slots)))

    @property
    def shape(self) -> tuple[int, ...]:
        """One entry a group: () for one norm over everything, or one threshold for all entries."""
        return () if self.counts is None else (sum(self.counts),)

    def init(self, xp: Any) -> Any:
        """The state before the first step; an empty tuple for a number."""
        return () if self.policy is None else self.policy.init(xp, self.shape)

    def of(
        self,
        measure: Measure,
        weights: Measure | None,
        state: Any,
        context: StepContext,
        norms: Array,
        joint: Array,
    ) -> tuple[Array, Any, Mapping[str, Array]]:
        """The threshold, or one for each of ``norms``, the next state, and what held the threshold.

        Args:
            measure: of the gradients.
            weights: of the parameters, where they are known.
            state: from the step before.
            context: what else the policy may know.
            norms: of the groups of those parameters that have a gradient.
            joint: of everything.
        """
        if self.policy is None:
            threshold = measure.number(self.clip.threshold)
            if self.traced:
                threshold = measure.as_threshold(threshold)
            return threshold, state, held_by_number(measure.xp, self.reasons)
        per, layout = self.clip.per, measure.layout
        # A memory has a place for every group, with or without a gradient in this step.
        spread = self.counts is not None and self.policy.remembers and not layout.complete
        weight_norm, weight_count = self._weights(measure, weights, everyone=spread)
        seen = self._seen(
            context,
            norm=layout.spread(norms, per) if spread else norms,
            global_norm=joint,
            weight_norm=weight_norm,
            weight_count=weight_count,
            moment_ratio=self._moment_ratio(measure, context),
        )
        held: Mapping[str, Array] = {}
        if self.reasons and isinstance(self.policy, WithReasons):
            threshold, state, conditions = self.policy.update_held(measure.xp, state, seen)
            gather = partial(layout.gathered, per=per) if spread else None
            held = held_by(measure.xp, self.reasons, conditions, gather)
        else:
            threshold, state = self.policy.update(measure.xp, state, seen)
        if self.clip.on == "loss":
            return measure.number(threshold), state, held  # of any sign
        threshold = measure.as_threshold(threshold)
        if spread and len(getattr(threshold, "shape", ())):
            threshold = layout.gathered(threshold, per)
        return threshold, state, held

    def as_ceiling(self) -> None:
        """Name a number as a reason: other clips of its chain have reasons."""
        if self.policy is None and self.clip.on == "norm" and not isinstance(self.clip.threshold, tuple):
            self.reasons = ("ceiling",)

    def before(self, xp: Namespace, weights: Measure | None, state: Any, context: StepContext) -> Array:
        """The threshold, or one for each group, by what was before this step; inf where nothing was.

        Args:
            xp: of the state and the threshold.
            weights: of the parameters, where they are known.
            state: from the step before.
            context: what else the policy may know.
        """
        found: Array = self.clip.threshold
        if self.policy is not None:
            unknown = xp.full(self.shape, math.nan), xp.full((), math.nan)
            found, _ = self.policy.update(xp, state, self._observed(xp, weights, context, *unknown))
        found = xp.asarray(found) + xp.zeros(self.shape)
        return xp.where(xp.isnan(found), math.inf, xp.where(found < 0, xp.zeros(()), found))

    def learned(
        self,
        xp: Namespace,
        weights: Measure | None,
        state: Any,
        context: StepContext,
        norms: Array,
        joint: Array,
        fold: Callable[[Callable[[Any, Any], Any], Any, Any], Any],
    ) -> Any:
        """The state after a step of several examples.

        Args:
            xp, weights, state, context: as for `before`.
            norms: of the groups in each example, ``(examples, *shape)``.
            joint: of everything in each example, ``(examples,)``.
            fold: of a function ``(state, rows) -> state``, a state and arrays: the state after all rows.
        """
        policy = self.policy
        if policy is None or not policy.remembers:
            return state
        many = getattr(policy, "update_many", None)
        if many is not None:
            return many(xp, state, norms)

        def shown(state: Any, rows: Any) -> Any:
            return policy.update(xp, state, self._observed(xp, weights, context, *rows))[1]

        return fold(shown, state, (norms, joint))

    def _observed(
        self, xp: Namespace, weights: Measure | None, context: StepContext, norms: Array, joint: Array
    ) -> Observation:
        weight_norm, weight_count = None, None
        if weights is not None and "weight_norm" in self.sees:
            weight_norm, weight_count = self._weights(weights, weights, everyone=True)
            weight_norm = xp.asarray(weight_norm)
        return self._seen(
            context,
            norm=norms,
            global_norm=joint,
            weight_norm=weight_norm,
            weight_count=weight_count,
        )

    def of_entries(
        self, measure: Measure, weights: Measure, state: Any, context: StepContext, joint: Array
    ) -> Iterator[tuple[int, Array, Any]]:
        """For each array its position, the threshold of each of its entries, and their next state.

        Where there is no array its position is -1; a state has a place for its entries all the same. The
        entries of one tensor are looked at at a time.
        """
        assert self.policy is not None
        xp, start = measure.xp, 0
        positions = {place: position for position, place in enumerate(measure.layout.present)}
        for place, slot in enumerate(self.slots):
            position = positions.get(place, -1)
            own = _of_slot(xp, state, start, slot)
            start += slot.size
            if position >= 0:
                norms, sizes = measure.moduli_beside(weights, position, whole=bool(state))
            elif state:
                norms, sizes = xp.zeros(slot.shape), weights.moduli(place)
            else:
                continue
            seen = self._seen(
                context,
                norm=measure.finite_for_history(norms),
                global_norm=joint,
                weight_norm=sizes,
                weight_count=1,
            )
            threshold, own = self.policy.update(xp, own, seen)
            yield position, measure.as_threshold(threshold), own

    def joined(self, xp: Namespace, state: Any, parts: Sequence[Any]) -> Any:
        """The state of all entries from those that `of_entries` gave, in their order."""
        if not state or not parts:
            return state
        return map_state(
            lambda before, *own: xp.concat([xp.reshape(part, (-1, *before.shape[1:])) for part in own]),
            state,
            *parts,
        )

    def _seen(self, context: StepContext, **seen: Any) -> Observation:
        return Observation(
            step=context.step,
            learning_rate=context.learning_rate,
            momentum=context.momentum,
            scale_free=context.scale_free,
            loss=context.loss,
            of_losses=self.clip.on == "loss",
            **seen,
        )

    def _moment_ratio(self, measure: Measure, context: StepContext) -> Array | None:
        if "moment_ratio" not in self.needs:
            return None
        return measure.xp.stack([context.moment_ratios[name] for name in measure.layout.names])

    def _weights(
        self, measure: Measure, weights: Measure | None, *, everyone: bool
    ) -> tuple[Array | None, Array | int | None]:
        """The norms of the weights of the groups, and how many weights each has."""
        per, norm = self.clip.per, self.clip.norm
        if weights is None or "weight_norm" not in self.sees:
            return None, None
        if self.counts is None:
            chosen = weights.part(self._weighed)
            return chosen.joint(norm), chosen.layout.entries
        chosen = weights if everyone else weights.part(measure.layout.present)
        return chosen.groups(per, norm), chosen.layout.group_sizes(per)


def map_state(function: Any, state: Any, *others: Any) -> Any:
    """A function of each array of a state, and of those in its place in others of the same form."""
    if isinstance(state, tuple):
        fields = [map_state(function, *each) for each in zip(state, *others, strict=True)]
        return type(state)(*fields) if hasattr(state, "_fields") else tuple(fields)
    return function(state, *others)


def _of_slot(xp: Namespace, state: Any, start: int, slot: Slot) -> Any:
    """The state of the entries of one slot, in its shape: they begin at ``start`` in the state of all."""
    stop = start + slot.size
    return map_state(lambda array: xp.reshape(array[start:stop], (*slot.shape, *array.shape[1:])), state)
