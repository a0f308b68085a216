"""One `Clip` at work on a list of parameters, with the state of its threshold policy."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from clipwise.clip import Clip
from clipwise.namespace import Namespace, namespace_of
from clipwise.thresholds import Observation, Threshold
from clipwise.torch._measure import Measure, values_of
from clipwise.torch.engines import reference as engine

__all__ = ["Facts", "Outcome", "Stage", "order_of"]


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a policy may know besides the gradients; see `clipwise.thresholds.Observation`."""

    step: int = 0
    learning_rate: float | Tensor | None = None
    momentum: float | None = None
    scale_free: bool = False
    loss: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What one stage did, in values on the device; see `clipwise.ClipReport`."""

    norm: Tensor
    norm_after: Tensor
    threshold: Tensor
    clipped: Tensor
    clip_fraction: Tensor
    direction: Tensor | None = None


def order_of(clip: Clip) -> float:
    """The order p in which a clip's norms are measured: 2 for the root mean square and for single entries."""
    return 2.0 if clip.norm == "rms" else clip.norm


class Stage:
    """Measures, asks the policy for the threshold, and scales.

    Args:
        clip: what to do.
        parameters: all that it may ever see, in a fixed order, which is that of a policy's state.
        embeddings: ids of weights that say little about how far a step may go.
    """

    def __init__(self, clip: Clip, parameters: Sequence[Tensor], embeddings: set[int]) -> None:
        self.clip = clip
        self.p = order_of(clip)
        self.parameters = list(parameters)
        self.embeddings = embeddings
        self.policy = clip.threshold if isinstance(clip.threshold, Threshold) else None
        device = self.parameters[0].device if self.parameters else torch.device("cpu")
        self.xp = _namespace(device)
        self.state: Any = self.policy.init(self.xp, self._shape()) if self.policy else ()

    def _shape(self) -> tuple[int, ...]:
        match self.clip.per:
            case "tensor":
                return (len(self.parameters),)
            case "unit":
                return (sum(_unit_count(p) for p in self.parameters),)
            case _:
                return ()

    def extend(self, parameters: Sequence[Tensor]) -> None:
        """Take in parameters that came later (``optimizer.add_param_group``); their state starts afresh."""
        old = self._shape()
        self.parameters += parameters
        if self.policy and self._shape() != old:
            added = self._shape()[0] - old[0]
            self.state = _concatenate(self.state, self.policy.init(self.xp, (added,)))

    def apply(self, measure: Measure, present: Sequence[int], facts: Facts) -> Outcome:
        """Clip the measured gradients in place.

        Args:
            measure: of the gradients of the parameters at the places ``present``.
        """
        if self.xp.device != measure.device:
            self.xp = _namespace(measure.device)
            self.state = _map(lambda t: t.to(measure.device), self.state)
        match self.clip.per:
            case "element":
                return self._by_element(measure, present, facts)
            case "global":
                return self._by_global(measure, present, facts)
            case _:
                return self._by_group(measure, present, facts)

    # One norm over everything.

    def _by_global(self, measure: Measure, present: Sequence[int], facts: Facts) -> Outcome:
        size = self._rms_size(sum(measure.sizes))
        norm = measure.total(self.p) / size
        threshold = self._threshold(facts, norm, norm, present)
        coefficient = _coefficient(norm, threshold)
        clipped = norm > threshold
        # Off the CPU a branch would wait for the device; a coefficient of 1 changes nothing.
        if measure.device.type != "cpu" or coefficient.item() != 1.0:
            for gradient in measure.gradients:
                engine.scale_(values_of(gradient), coefficient)
        return Outcome(
            norm=norm,
            norm_after=torch.where(clipped, threshold, norm),
            threshold=threshold,
            clipped=clipped,
            clip_fraction=clipped.to(measure.dtype),
            direction=torch.ones_like(norm),
        )

    # One norm for each tensor or unit.

    def _by_group(self, measure: Measure, present: Sequence[int], facts: Facts) -> Outcome:
        unit = self.clip.per == "unit"
        parts = measure.units(self.p) if unit else list(measure.tensors(self.p).split(1))
        counts = [len(part) for part in parts]
        sizes = [
            self._rms_size(n / count) if count else 1.0
            for n, count in zip(measure.sizes, counts, strict=True)
        ]
        norms = torch.cat([part / size for part, size in zip(parts, sizes, strict=True)])

        everything = measure.total(self.p) / self._rms_size(sum(measure.sizes))
        threshold = self._threshold(facts, norms, everything, present)
        coefficient = _coefficient(norms, threshold)
        clipped = norms > threshold
        pieces = coefficient.split(counts)
        for gradient, piece in zip(measure.gradients, pieces, strict=True):
            if measure.device.type != "cpu" or bool((piece != 1.0).any()):
                self._scale(gradient, piece)

        after = [
            torch.where(hit, limit, norm) * size
            for norm, limit, hit, size in zip(
                norms.split(counts), threshold.split(counts), clipped.split(counts), sizes, strict=True
            )
        ]
        return Outcome(
            norm=everything,
            norm_after=engine.combine(torch.cat(after), self.p) / self._rms_size(sum(measure.sizes)),
            threshold=threshold.min(),
            clipped=clipped.any(),
            clip_fraction=clipped.to(measure.dtype).mean(),
            direction=_direction(torch.cat(parts), coefficient) if self.p == 2.0 else None,
        )

    def _scale(self, gradient: Tensor, coefficient: Tensor) -> None:
        if self.clip.per == "unit" and gradient.is_sparse and gradient.ndim > 1:
            coefficient = coefficient[gradient._indices()[0].to(coefficient.device)]
        elif self.clip.per == "tensor" or len(coefficient) == 1:
            coefficient = coefficient[0]
        engine.scale_(values_of(gradient), coefficient)

    # Each entry by itself.

    def _by_element(self, measure: Measure, present: Sequence[int], facts: Facts) -> Outcome:
        norm = measure.total(2.0)
        bounds = self._bounds(measure, present, facts)
        beyond = torch.zeros((), dtype=torch.int64, device=measure.device)
        for gradient, (low, high) in zip(measure.gradients, bounds, strict=True):
            beyond += engine.clamp_(values_of(gradient), low, high).to(measure.device)
        largest = [_magnitude(low, high, measure) for low, high in bounds]
        return Outcome(
            norm=norm,
            norm_after=Measure(measure.gradients).total(2.0),
            threshold=torch.stack(largest).min(),
            clipped=beyond > 0,
            clip_fraction=beyond.to(measure.dtype) / max(1, sum(measure.sizes)),
        )

    def _bounds(
        self, measure: Measure, present: Sequence[int], facts: Facts
    ) -> list[tuple[float | Tensor, float | Tensor]]:
        """The lowest and highest value that each gradient's entries may have."""
        if isinstance(self.clip.threshold, tuple):
            return [self.clip.threshold] * len(present)
        if self.policy is None:
            return [(-self._number, self._number)] * len(present)
        if "weight_norm" in self.policy.needs:
            limits = [self._element_limit(i, g) for i, g in zip(present, measure.gradients, strict=True)]
        else:
            limits = [self._ask(facts, measure.total(2.0), None, None)] * len(present)
        return [(-limit, limit) for limit in limits]

    def _element_limit(self, place: int, gradient: Tensor) -> Tensor:
        assert self.policy is not None
        weights = self.parameters[place].detach()
        if gradient.is_sparse:
            weights = weights[tuple(gradient._indices())]
        observation = Observation(norm=weights.abs(), weight_norm=weights.abs())
        return torch.as_tensor(self.policy.update(_namespace(weights.device), self.state, observation)[0])

    # The threshold.

    @property
    def _number(self) -> float:
        assert isinstance(self.clip.threshold, float)
        return self.clip.threshold

    def _rms_size(self, entries: float) -> float:
        """What a 2-norm over so many entries is divided by to be a root mean square; 1 for other norms."""
        return math.sqrt(max(entries, 1)) if self.clip.norm == "rms" else 1.0

    def _threshold(self, facts: Facts, norms: Tensor, everything: Tensor, present: Sequence[int]) -> Tensor:
        """One threshold for each of ``norms``, which are those of the parameters that have a gradient."""
        if self.policy is None:
            return torch.full_like(norms, self._number)
        if not (self.policy.remembers and norms.ndim == 1 and len(present) < len(self.parameters)):
            return self._ask(facts, norms, everything, self._weights(present, norms)).expand_as(norms)
        # A memory has a place for every parameter, with or without a gradient in this step.
        places = self._places(present, norms.device)
        whole = norms.new_zeros(self._shape()).index_copy_(0, places, norms)
        weights = self._weights(range(len(self.parameters)), whole)
        return self._ask(facts, whole, everything, weights).expand_as(whole)[places]

    def _places(self, present: Sequence[int], device: torch.device) -> Tensor:
        """Where the groups of these parameters are among the groups of all."""
        counts = [_unit_count(p) if self.clip.per == "unit" else 1 for p in self.parameters]
        starts = list(itertools.accumulate(counts, initial=0))
        places = [place for i in present for place in range(starts[i], starts[i + 1])]
        return torch.tensor(places, device=device)

    def _ask(
        self, facts: Facts, norms: Tensor, everything: Tensor | None, weights: tuple[Tensor, int] | None
    ) -> Tensor:
        assert self.policy is not None
        seen = Observation(
            norm=norms,
            step=facts.step,
            global_norm=everything,
            weight_norm=weights[0] if weights else None,
            weight_count=weights[1] if weights else None,
            learning_rate=facts.learning_rate,
            momentum=facts.momentum,
            scale_free=facts.scale_free,
            loss=facts.loss,
        )
        threshold, self.state = self.policy.update(self.xp, self.state, seen)
        return torch.as_tensor(threshold, dtype=norms.dtype, device=norms.device)

    def _weights(self, places: Sequence[int], norms: Tensor) -> tuple[Tensor, int] | None:
        """The norms of the weights of the groups, and how many weights there are."""
        assert self.policy is not None
        if "weight_norm" not in self.policy.needs | self.policy.wants:
            return None
        chosen = [self.parameters[i].detach() for i in places]
        if self.clip.per == "global":
            chosen = [p.detach() for p in self.parameters]
            if "weight_norm" in self.policy.wants:
                # As a guide to how far a step may go, not as the threshold itself: embeddings would dominate.
                chosen = [p.detach() for p in self.parameters if id(p) not in self.embeddings] or chosen
        measure = Measure(chosen)
        count = sum(measure.sizes)
        if self.clip.per == "global":
            return measure.total(self.p) / self._rms_size(count), count
        if self.clip.per == "tensor":
            sizes = norms.new_tensor([self._rms_size(n) for n in measure.sizes])
            return measure.tensors(self.p) / sizes, count
        units = measure.units(self.p)
        sized = zip(units, measure.sizes, strict=True)
        return torch.cat([u / self._rms_size(n / max(len(u), 1)) for u, n in sized]), count


def _namespace(device: torch.device) -> Namespace:
    return namespace_of(torch.empty((), dtype=engine.wide(device), device=device))


def _unit_count(parameter: Tensor) -> int:
    return parameter.shape[0] if parameter.ndim > 1 and parameter.numel() else 1


def _coefficient(norm: Tensor, threshold: Tensor) -> Tensor:
    """``min(1, threshold / norm)``; NaN for a NaN norm, as in every framework, unless nothing bounds it."""
    free = (norm <= threshold) | torch.isinf(threshold)
    return torch.where(free, 1.0, threshold / norm)


def _direction(norms: Tensor, coefficient: Tensor) -> Tensor:
    """The cosine between the parts with these norms and the same parts scaled."""
    largest = norms.max()
    unit = norms / torch.where(largest > 0, largest, torch.ones_like(largest))
    scaled = unit * coefficient
    lengths = torch.linalg.vector_norm(unit) * torch.linalg.vector_norm(scaled)
    return torch.where(lengths > 0, (unit * scaled).sum() / lengths, torch.ones_like(lengths))


def _magnitude(low: float | Tensor, high: float | Tensor, measure: Measure) -> Tensor:
    bounds = [torch.as_tensor(b, dtype=measure.dtype, device=measure.device) for b in (low, high)]
    return torch.stack(
        [bound.abs().amin() if bound.numel() else bound.new_zeros(()) for bound in bounds]
    ).max()


def _map(function: Any, state: Any) -> Any:
    """Apply to every tensor of a (nested) NamedTuple."""
    if isinstance(state, Tensor):
        return function(state)
    return type(state)(*[_map(function, field) for field in state])


def _concatenate(first: Any, second: Any) -> Any:
    if isinstance(first, Tensor):
        return torch.cat([first, second])
    return type(first)(*[_concatenate(a, b) for a, b in zip(first, second, strict=True)])
