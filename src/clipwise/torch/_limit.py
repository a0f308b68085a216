"""The threshold of one clip at work: a number, or a policy with its state over a list of parameters."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from clipwise.clip import Clip
from clipwise.thresholds import Observation, Threshold
from clipwise.torch._keeper import Keeper
from clipwise.torch._measure import Measure
from clipwise.torch.engines import reference as engine

__all__ = ["Facts", "Limit"]


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a policy may know besides the gradients; see `clipwise.thresholds.Observation`."""

    step: int = 0
    learning_rate: float | Tensor | None = None
    momentum: float | None = None
    scale_free: bool = False
    loss: Tensor | None = None


class Limit:
    """Gives the threshold of each group, and remembers what its policy remembers.

    Args:
        clip: whose threshold it is.
        parameters: all that it may ever see, in a fixed order, which is that of a policy's state.
        embeddings: ids of weights that say little about how far a step may go.
    """

    def __init__(self, clip: Clip, parameters: Sequence[Tensor], embeddings: set[int]) -> None:
        self.clip = clip
        self.parameters = list(parameters)
        self.embeddings = embeddings
        self.policy = clip.threshold if isinstance(clip.threshold, Threshold) else None
        device = self.parameters[0].device if self.parameters else torch.device("cpu")
        self.keeper = Keeper(self.policy, self.shape, device) if self.policy else None
        self._places_of: tuple[tuple[int, ...], Tensor] | None = None

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
                return [p.shape[0] if p.ndim > 1 and p.numel() else 1 for p in self.parameters]
            case _:
                return None

    def extend(self, parameters: Sequence[Tensor]) -> None:
        """Take in parameters that came later; their state starts afresh."""
        old = self.shape
        self.parameters += parameters
        if self.keeper and self.shape != old:
            self.keeper.extend(self.shape[0] - old[0])

    def of(self, facts: Facts, norms: Tensor, joint: Tensor, present: Sequence[int]) -> Tensor:
        """One threshold for each of ``norms``: those of the groups of the parameters at these places."""
        if self.policy is None:
            return torch.full_like(norms, self.clip.threshold)  # type: ignore[arg-type]
        if not (self.policy.remembers and norms.ndim == 1 and len(present) < len(self.parameters)):
            return self._ask(facts, norms, joint, present).expand_as(norms)
        # A memory has a place for every parameter, with or without a gradient in this step.
        places = self._places(tuple(present), norms.device)
        whole = norms.new_zeros(self.shape).index_copy_(0, places, norms)
        everyone = range(len(self.parameters))
        return self._ask(facts, whole, joint, everyone).expand_as(whole).index_select(0, places)

    def listen(self, facts: Facts) -> None:
        """Hear the loss of a step that is not taken; its norms say nothing."""
        if self.policy is not None and "loss" in self.policy.needs | self.policy.wants:
            device = facts.loss.device if facts.loss is not None else torch.device("cpu")
            nothing = torch.full(self.shape, torch.nan, dtype=engine.wide(device), device=device)
            self._update(facts, norm=nothing, global_norm=nothing)

    def _ask(self, facts: Facts, norms: Tensor, joint: Tensor, present: Sequence[int]) -> Tensor:
        weights, count = self._weights(present)
        return self._update(facts, norm=norms, global_norm=joint, weight_norm=weights, weight_count=count)

    def _update(self, facts: Facts, **seen: Any) -> Tensor:
        assert self.keeper is not None
        return self.keeper.update(
            Observation(
                step=facts.step,
                learning_rate=facts.learning_rate,
                momentum=facts.momentum,
                scale_free=facts.scale_free,
                loss=facts.loss,
                **seen,
            )
        )

    def _weights(self, present: Sequence[int]) -> tuple[Tensor | None, Tensor | int | None]:
        """The norms of the weights of the groups, and how many weights each has."""
        assert self.policy is not None
        if "weight_norm" not in self.policy.needs | self.policy.wants:
            return None, None
        per, norm = self.clip.per, self.clip.norm
        if per != "global":
            measure = Measure([self.parameters[i].detach() for i in present])
            groups = measure.groups(per, norm)
            sizes = [n / max(len(g), 1) for n, g in zip(measure.sizes, groups, strict=True)]
            counts = torch.cat([torch.full_like(g, s) for g, s in zip(groups, sizes, strict=True)])
            return torch.cat(groups), counts
        chosen = [p.detach() for p in self.parameters]
        if "weight_norm" in self.policy.wants:
            # As a guide to how far a step may go, not as the threshold itself: embeddings would dominate.
            chosen = [p.detach() for p in self.parameters if id(p) not in self.embeddings] or chosen
        measure = Measure(chosen)
        return measure.joint(norm), sum(measure.sizes)

    def _places(self, present: tuple[int, ...], device: torch.device) -> Tensor:
        """Where the groups of these parameters are among the groups of all; kept while they stay the same."""
        known = self._places_of
        if known is None or known[0] != present or known[1].device != device:
            counts = self._group_counts() or []
            starts = list(itertools.accumulate(counts, initial=0))
            places = [place for i in present for place in range(starts[i], starts[i + 1])]
            known = self._places_of = (present, torch.tensor(places, device=device))
        return known[1]
