"""The threshold of one clip at work: a number, or a policy with its state over a list of parameters."""

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from clipwise.clip import Clip
from clipwise.functional.facts import Facts
from clipwise.namespace import Array, Namespace
from clipwise.thresholds import Observation, Threshold
from clipwise.torch._keeper import Keeper
from clipwise.torch._layout import Layout
from clipwise.torch._measure import Measure
from clipwise.torch._units import Units
from clipwise.torch.engines import make_batch
from clipwise.torch.engines._arrays import array_on, namespace_on

__all__ = ["Limit"]


class Limit:
    """Gives the threshold of each group, and remembers what its policy remembers.

    Args:
        clip: whose threshold it is.
        parameters: all that it may ever see, in a fixed order, which is that of a policy's state.
        embeddings: ids of weights that say little about how far a step may go.
        units: of the parameters; kept up to date by the owner of the plan.
    """

    def __init__(self, clip: Clip, parameters: Sequence[Tensor], embeddings: set[int], units: Units) -> None:
        self.clip = clip
        self.parameters = list(parameters)
        self.embeddings = embeddings
        self.units = units
        self.policy = clip.threshold if isinstance(clip.threshold, Threshold) else None
        device = self.parameters[0].device if self.parameters else torch.device("cpu")
        self.keeper = Keeper(self.policy, self.shape, namespace_on(device)) if self.policy else None
        self._spread_of: tuple[tuple[int, ...], Namespace, Array, Array] | None = None
        self._weights_of: tuple[tuple[int, ...], list[Tensor], Layout] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """One entry a group: () for one norm over everything, or for single entries."""
        groups = self._group_counts()
        return () if groups is None else (sum(groups),)

    def _group_counts(self) -> list[int] | None:
        """How many groups each parameter has; None where they are not counted by parameter."""
        match self.clip.per:
            case "tensor":
                return [1] * len(self.parameters)
            case "unit":
                return [self.units.count(p) for p in self.parameters]
            case _:
                return None

    def extend(self, parameters: Sequence[Tensor]) -> None:
        """Take in parameters that came later; their state starts afresh."""
        old = self.shape
        self.parameters += parameters
        self._spread_of = self._weights_of = None
        if self.keeper and self.shape != old:
            self.keeper.extend(self.shape[0] - old[0])

    def keep(self, ids: set[int]) -> None:
        """Let go of all parameters but these, and of what is remembered of them."""
        places = [place for place, p in enumerate(self.parameters) if id(p) in ids]
        if len(places) == len(self.parameters):
            return
        counts = self._group_counts()
        if self.keeper and counts is not None:
            ends = list(itertools.accumulate(counts))
            self.keeper.keep([group for i in places for group in range(ends[i] - counts[i], ends[i])])
        self.parameters = [self.parameters[place] for place in places]
        self._spread_of = self._weights_of = None

    def of(self, xp: Namespace, facts: Facts, norms: Array, joint: Array, present: tuple[int, ...]) -> Array:
        """The threshold, or one for each of ``norms``, those of the groups of the parameters ``present``."""
        if self.policy is None:
            return xp.asarray(self.clip.threshold)
        if not (self.policy.remembers and len(norms.shape) == 1 and len(present) < len(self.parameters)):
            return self._ask(xp, facts, norms, joint, present)
        # A memory has a place for every parameter, with or without a gradient in this step.
        places, sources = self._spread(xp, present)
        whole = xp.take(xp.concat([norms, xp.zeros((1,))]), sources, axis=0)
        everyone = tuple(range(len(self.parameters)))
        thresholds = self._ask(xp, facts, whole, joint, everyone)
        return thresholds if thresholds.ndim == 0 else xp.take(thresholds, places, axis=0)

    def listen(self, xp: Namespace, facts: Facts) -> None:
        """Hear the loss of a step that is not taken; its norms say nothing."""
        if self.policy is not None and "loss" in self.policy.needs | self.policy.wants:
            nothing = xp.full(self.shape, torch.nan)
            self._update(xp, facts, norm=nothing, global_norm=nothing)

    def _ask(
        self, xp: Namespace, facts: Facts, norms: Array, joint: Array, present: tuple[int, ...]
    ) -> Array:
        weights, count = self._weights(xp, present)
        return self._update(xp, facts, norm=norms, global_norm=joint, weight_norm=weights, weight_count=count)

    def _update(self, xp: Namespace, facts: Facts, **seen: Any) -> Array:
        assert self.keeper is not None
        rate = facts.learning_rate
        return self.keeper.update(
            xp,
            Observation(
                step=facts.step,
                learning_rate=array_on(xp, rate) if isinstance(rate, Tensor) else rate,
                momentum=facts.momentum,
                scale_free=facts.scale_free,
                loss=None if facts.loss is None else array_on(xp, facts.loss),
                **seen,
            ),
        )

    def _weights(self, xp: Namespace, present: tuple[int, ...]) -> tuple[Array | None, Array | int | None]:
        """The norms of the weights of the groups, and how many weights each has."""
        assert self.policy is not None
        if "weight_norm" not in self.policy.needs | self.policy.wants:
            return None, None
        per, norm = self.clip.per, self.clip.norm
        chosen, layout = self._chosen_weights(xp, present)
        batch = make_batch(chosen)
        if batch.entries != layout.entries:  # the data of a parameter was exchanged for some of another size
            self._weights_of = None
            chosen, layout = self._chosen_weights(xp, present)
        measure = Measure(batch, layout)
        if per == "global":
            return measure.joint(norm), layout.entries
        return measure.groups(per, norm), measure.layout.group_sizes(per)

    def _chosen_weights(self, xp: Namespace, present: tuple[int, ...]) -> tuple[list[Tensor], Layout]:
        """The weights that are measured, with their layout; kept while they stay the same."""
        assert self.policy is not None
        known = self._weights_of
        if known is None or known[0] != present or known[2].xp is not xp:
            chosen = list(self.parameters)
            if self.clip.per != "global":
                chosen = [self.parameters[i] for i in present]
            elif "weight_norm" in self.policy.wants:
                # As a guide to how far a step may go, not as the threshold itself: embeddings would dominate.
                chosen = [p for p in chosen if id(p) not in self.embeddings] or chosen
            known = self._weights_of = (present, chosen, Layout(chosen, xp, self.units.ways(chosen)))
        return known[1], known[2]

    def _spread(self, xp: Namespace, present: tuple[int, ...]) -> tuple[Array, Array]:
        """Where the groups of these parameters are among the groups of all, and the way back.

        The way back leads groups that are not there to a place after the last. Kept while they stay the same.
        """
        known = self._spread_of
        if known is None or known[0] != present or known[1] is not xp:
            counts = self._group_counts() or []
            starts = list(itertools.accumulate(counts, initial=0))
            places = [place for i in present for place in range(starts[i], starts[i + 1])]
            sources = [len(places)] * starts[-1]
            for source, place in enumerate(places):
                sources[place] = source
            known = self._spread_of = (
                present,
                xp,
                xp.asarray(places, dtype=xp.int64),
                xp.asarray(sources, dtype=xp.int64),
            )
        return known[2], known[3]
