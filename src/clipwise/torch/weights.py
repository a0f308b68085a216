"""Clipping of the weights themselves: WGAN's weight clipping, the max-norm constraint."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from clipwise.clip import AnyClip, Clip
from clipwise.config.arguments import as_clip, refuse_skips
from clipwise.functional.bounds import TOLERANCE, share_at_bound
from clipwise.functional.slots import UnitAxes
from clipwise.report import ClipReport
from clipwise.torch._after_step import AfterStep
from clipwise.torch._gradients import Weights
from clipwise.torch._measure import MeasuredTensors
from clipwise.torch._one_step import Outcome
from clipwise.torch._parameters import Parameters
from clipwise.torch._process_groups import ProcessGroups
from clipwise.torch._sharded import ShardedTensors
from clipwise.torch._sharded_gradients import ShardedWeights
from clipwise.torch._slots import layout_of
from clipwise.torch.engines import make_batch
from clipwise.torch.engines._arrays import tensor_of, wide
from clipwise.torch.engines.reference import values_of

__all__ = ["WeightClipper"]


class WeightClipper(AfterStep):
    """A `Clipper` for weights: each call of `clip_` clips the parameters and leaves their gradients alone.

    ``clip_by_value(0.01)`` is WGAN's weight clipping (Arjovsky et al. 2017, arXiv:1701.07875),
    ``Clip(3.0, per="unit")`` the max-norm constraint.

    Args:
        parameters, clip, model, unit_axes, process_groups: as for `Clipper`.

    Attributes:
        report: report of the last call. Its ``at_bound`` is the share of the clipped entries, units or
            tensors (depending on the clip's ``per``) that are at the bound, NaN if each has its own bound. It
            is computed when it is read, from the weights at that time, on their device, and costs nothing in
            the step. For sharded weights (DTensor) it is computed in the step, since all ranks must take
            part; for ``per="element"`` this takes one more collective.

    >>> import torch, clipwise
    >>> weight = torch.nn.Parameter(torch.tensor([0.5, -0.002]))
    >>> report = WeightClipper([weight], clipwise.clip_by_value(0.01)).clip_()
    >>> weight.data
    tensor([ 0.0100, -0.0020])
    >>> float(report.clip_fraction)
    0.5
    >>> weight = torch.nn.Parameter(torch.tensor([0.5, -0.01, 0.0, 0.0]))
    >>> clipper = WeightClipper([weight], clipwise.clip_by_value(0.01))
    >>> report = clipper.clip_()  # clips one entry, and two stand at the bound
    >>> float(clipper.report.at_bound)
    0.5
    """

    _source = Weights
    _spread_source = ShardedWeights
    _spread: ShardedTensors | None = None
    _report: ClipReport | None

    def __init__(
        self,
        parameters: Parameters,
        clip: AnyClip | str | Mapping[str, Any],
        *,
        model: nn.Module | None = None,
        unit_axes: UnitAxes | None = None,
        process_groups: ProcessGroups | None = None,
    ) -> None:
        clip = as_clip(clip)
        refuse_skips(clip)
        super().__init__(parameters, clip, model=model, unit_axes=unit_axes, process_groups=process_groups)

    def _over_ranks(self, *args: Any) -> ShardedTensors | None:
        self._spread = super()._over_ranks(*args)
        return self._spread

    def _clip(self, *args: Any) -> Outcome:
        outcome = super()._clip(*args)
        if self._spread is not None:
            bound = self._at_bound(outcome.report, self._spread)
            outcome = outcome._replace(report=dataclasses.replace(outcome.report, at_bound=bound))
            self._spread = None
        return outcome

    @property
    def report(self) -> ClipReport | None:
        found = self._report
        if found is not None and found.at_bound is None:
            found = self._report = dataclasses.replace(found, at_bound=self._at_bound(found))
        return found

    @report.setter
    def report(self, report: ClipReport | None) -> None:
        self._report = report

    @torch.no_grad()
    def _at_bound(self, report: ClipReport, spread: ShardedTensors | None = None) -> Tensor:
        """The share of the weights of a report that stand at the bound.

        Args:
            spread: the measure of them where they lie on several ranks, which all ask for it.
        """
        names = [name for name in report.names if spread is not None or name in self.parameters]

        def share(clip: Clip, places: Sequence[int], bound: Any) -> Tensor:
            measure: MeasuredTensors
            if spread is not None:
                measure = spread.part(tuple(spread.layout.present[place] for place in places))
            else:
                measure = self._measured([names[place] for place in places])
            if clip.per != "element":
                return _of_groups(clip, measure, bound)
            counts = _of_entries(measure.tensors, bound)
            total = measure.over_ranks(counts) if isinstance(measure, ShardedTensors) else counts.sum()
            return total / max(1, measure.layout.entries)

        return tensor_of(share_at_bound(self.clip, report, names, share))

    def _measured(self, names: Sequence[str]) -> MeasuredTensors:
        weights, slots = [self.parameters[name] for name in names], {slot.name: slot for slot in self._slots}
        batch = make_batch(weights)
        return MeasuredTensors(weights, layout_of(weights, [slots[name] for name in names], batch.xp), batch)


def _of_groups(clip: Clip, measure: MeasuredTensors, bound: Any) -> Tensor:
    norms = measure.joint(clip.norm) if clip.per == "global" else measure.groups(clip.per, clip.norm)
    found = tensor_of(norms)
    slack = max([TOLERANCE, *(torch.finfo(one.dtype).eps for one in measure.tensors)])
    limit = torch.as_tensor(bound, dtype=found.dtype, device=found.device) * (1.0 - slack)
    return (found >= limit).to(found.dtype).mean()


def _of_entries(weights: Sequence[Tensor], bound: Any) -> Tensor:
    """How many entries of each stand at it, in the wide dtype.

    Entries are put to the bound as their own dtype has it, so nothing is rounded here.
    """
    low, high = bound if isinstance(bound, tuple) else (None, bound)
    counts = []
    for weight in weights:
        values = values_of(weight)
        if values.is_complex():
            at = values.abs() >= high * (1.0 - TOLERANCE)
        else:
            top = _like(values, high)
            bottom = -top if low is None else _like(values, low)
            at = (values >= top) | (values <= bottom)
        counts.append(at.sum().to(weights[0].device, wide(weights[0].device)))
    return torch.stack(counts)


def _like(values: Tensor, bound: Tensor | float) -> Tensor:
    """A bound as these values have it: a number from all of its digits, filled on the device."""
    if not isinstance(bound, Tensor):
        bound = torch.full((), bound, dtype=wide(values.device), device=values.device)
    return bound.to(values.device, values.dtype)
