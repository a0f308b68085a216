"""The same clips on the weights themselves: WGAN's weight clipping, the max-norm constraint."""

import dataclasses
from collections.abc import Container, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from clipwise.clip import AnyClip, Clip
from clipwise.functional.bounds import TOLERANCE, share_at_bound
from clipwise.functional.slots import UnitAxes
from clipwise.report import ClipReport
from clipwise.torch._gradients import Weights
from clipwise.torch._measure import MeasuredTensors
from clipwise.torch._parameters import Parameters, named
from clipwise.torch._slots import layout_of
from clipwise.torch.clipper import Clipper
from clipwise.torch.engines import make_batch
from clipwise.torch.engines._arrays import tensor_of, wide
from clipwise.torch.engines.reference import values_of
from clipwise.torch.refusals import refuse_shards

__all__ = ["WeightClipper"]


class WeightClipper(Clipper):
    """A `Clipper` of weights: each call of `clip_` bounds the parameters and leaves their gradients alone.

    ``clip_by_value(0.01)`` is WGAN's weight clipping (Arjovsky et al. 2017, arXiv:1701.07875),
    ``Clip(3.0, per="unit")`` the max-norm constraint.

    Args:
        parameters, clip, model, unit_axes: as for `Clipper`.

    Attributes:
        report: of the last call, with ``at_bound``, the share of the weights that it clipped (entries, units
            or tensors, as the clip has them) that stand at the bound, NaN where each has its own. That is
            counted when the report is looked at, from the weights as they are then, and on their device; a
            step that nobody looks at costs nothing more.

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
    _report: ClipReport | None

    def __init__(
        self,
        parameters: Parameters,
        clip: AnyClip | str | Mapping[str, Any],
        *,
        model: nn.Module | None = None,
        unit_axes: UnitAxes | None = None,
    ) -> None:
        own = named(parameters)
        refuse_shards("a clip of weights", own)
        super().__init__(own.items(), clip, model=model, unit_axes=unit_axes)

    def clip_after(
        self, ids: Container[int] | None = None, *, again: bool = False, leave: Tensor | None = None
    ) -> ClipReport:
        """`clip_` after the step of an optimizer.

        Args:
            ids: of the parameters that it moved; None: all.
            again: the step is the same as at the last call, of another optimizer; it counts once.
            leave: above 0 if the step did not happen, where only the device knows (0-d).
        """
        if not again:
            self._before = self.steps, self._clipped_steps
        total = self._clipped_steps
        self.steps, self._clipped_steps = self._before
        report = self._step(None, leave=leave, only=ids).report
        if again:
            self._clipped_steps = torch.maximum(total, self._clipped_steps)
        return report

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
    def _at_bound(self, report: ClipReport) -> Tensor:
        names = [name for name in report.names if name in self.parameters]
        every = [self.parameters[name] for name in names]

        def share(clip: Clip, places: Sequence[int], bound: Any) -> Tensor:
            chosen = [every[place] for place in places]
            return (
                _of_entries(chosen, bound) if clip.per == "element" else self._of_groups(clip, chosen, bound)
            )

        return torch.as_tensor(share_at_bound(self.clip, report, names, share))

    def _of_groups(self, clip: Clip, weights: list[Tensor], bound: Any) -> Tensor:
        batch, slots = make_batch(weights), {slot.name: slot for slot in self._slots}
        names = {id(parameter): name for name, parameter in self.parameters.items()}
        own = [slots[names[id(weight)]] for weight in weights]
        measure = MeasuredTensors(weights, layout_of(weights, own, batch.xp), batch)
        norms = measure.joint(clip.norm) if clip.per == "global" else measure.groups(clip.per, clip.norm)
        found = tensor_of(norms)
        slack = max([TOLERANCE, *(torch.finfo(one.dtype).eps for one in weights)])
        limit = torch.as_tensor(bound, dtype=found.dtype, device=found.device) * (1.0 - slack)
        return (found >= limit).to(found.dtype).mean()


def _of_entries(weights: list[Tensor], bound: Any) -> Tensor:
    """Entries are put to the bound as their own dtype has it, so nothing is rounded here."""
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
        counts.append(at.sum().to(weights[0].device))
    return torch.stack(counts).sum() / max(1, sum(weight.numel() for weight in weights))


def _like(values: Tensor, bound: Tensor | float) -> Tensor:
    """A bound as these values have it: a number from all of its digits, filled on the device."""
    if not isinstance(bound, Tensor):
        bound = torch.full((), bound, dtype=wide(values.device), device=values.device)
    return bound.to(values.device, values.dtype)
