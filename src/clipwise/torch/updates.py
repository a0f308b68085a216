"""Update clipping: bounds the change that a step makes to the parameters, for any optimizer."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from clipwise.clip import AnyClip
from clipwise.config.arguments import as_update_clip
from clipwise.config.spelling import spelled
from clipwise.errors import ArgumentError, NonFiniteError
from clipwise.functional.arguments import NonFinite
from clipwise.functional.context import StepContext
from clipwise.functional.slots import UnitAxes
from clipwise.namespace import Namespace
from clipwise.report import ClipReport
from clipwise.torch._after_step import AfterStep
from clipwise.torch._differences import Differences, ShardedDifferences
from clipwise.torch._measure import MeasuredTensors
from clipwise.torch._placements import local
from clipwise.torch._process_groups import ProcessGroups
from clipwise.torch._second_moment import refuse_other_than_adam, squares_over_moment
from clipwise.torch._slots import layout_of
from clipwise.torch.engines._arrays import array_on, tensor_of, wide
from clipwise.torch.refusals import refuse_updates

__all__ = ["UpdateClipper"]


class _Kept(NamedTuple):
    """A parameter before a step.

    Attributes:
        parameter: itself, as its optimizer has it.
        before: a copy of what is here of it.
        rate: the learning rate of its group; 1 where that is 0.
        group: its group.
    """

    parameter: Tensor
    before: Tensor
    rate: float | Tensor
    group: Mapping[str, Any]


class UpdateClipper(AfterStep):
    """A `Clipper` for updates: after each step, the change of the parameters is measured and clipped.

    With p the parameters and lr the learning rate of their group::

        u = (p_after - p_before) / lr            is measured and clipped
        p = p_before + lr * clipped(u)           if the clip changed u; otherwise p_after, bit for bit

    So ``clip_by_block_rms(d)`` applies Adafactor's ``u / max(1, RMS(u) / d)`` to any optimizer. Decoupled
    weight decay is part of the change. Created by ``clipwise.torch.attach(optimizer, updates=...)``.

    Memory: one copy of the parameters during the step, and one of the changes until they are clipped.
    Parameters in half precision are subtracted in float32 and rounded once. For a group with a learning rate
    of 0, lr is taken as 1.

    Attributes:
        report: report of the last step, with the norms of u. With ``nonfinite="skip"``, a step whose update
            holds NaN or Inf is undone and reported as ``skipped``: the parameters are restored, the state of
            the optimizer is not.

    Raises:
        ArgumentError: the clip follows the loss or skips steps; the optimizer is not supported, see `attach`;
            or the clip needs the updates of several optimizers at once, or a second moment that an optimizer
            does not have.

    Source: Shazeer and Stern 2018, arXiv:1804.04235, section 6.

    >>> import torch, clipwise
    >>> weight = torch.nn.Parameter(torch.zeros(2))
    >>> optimizer = torch.optim.SGD([weight], lr=0.1)
    >>> clipper = clipwise.torch.attach(optimizer, updates=clipwise.clip_by_block_rms(1.0))
    >>> weight.grad = torch.full((2,), 3.0)
    >>> optimizer.step()
    >>> print(clipper.updates.report)
    norm 3 -> 1 (threshold 1, 100% clipped)
    >>> weight.data
    tensor([-0.1000, -0.1000])
    """

    _source = Differences
    _spread_source = ShardedDifferences
    _of_updates = True

    def __init__(
        self,
        optimizers: Sequence[Optimizer],
        parameters: Mapping[str, Tensor],
        clip: AnyClip | str | Mapping[str, Any],
        *,
        nonfinite: NonFinite,
        model: nn.Module | None,
        unit_axes: UnitAxes | None,
        process_groups: ProcessGroups | None,
    ) -> None:
        clip = as_update_clip(clip)
        for one in optimizers:
            refuse_updates(one)
        self._kept: dict[int, _Kept] = {}
        self._now: dict[int, _Kept] = {}
        self._optimizer: Optimizer | None = None
        super().__init__(
            parameters.items(),
            clip,
            nonfinite=nonfinite,
            model=model,
            unit_axes=unit_axes,
            process_groups=process_groups,
        )
        if len(optimizers) > 1 and self._plan.needs_all():
            raise ArgumentError(
                f"updates={spelled(clip)} needs the updates of all parameters, and these {len(optimizers)}"
                " optimizers step one after the other: use a clip for each tensor, such as clip_by_block_rms,"
                " or attach to each optimizer by itself"
            )
        if "moment_ratio" in self._sees:
            refuse_other_than_adam(optimizers)

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_kept": {}}

    @torch.no_grad()
    def keep(self, optimizer: Optimizer) -> None:
        """Save the parameters before a step of their optimizer."""
        self._kept = {}
        for group in optimizer.param_groups:
            rate = _divisor(group["lr"])
            for parameter in group["params"]:
                self._kept[id(parameter)] = _Kept(parameter, local(parameter).detach().clone(), rate, group)

    def forget(self) -> None:
        """Drop the saved parameters: the step did not take place."""
        self._kept = {}

    @torch.no_grad()
    def clip_after(self, optimizer: Optimizer, *, again: bool = False) -> ClipReport | None:
        """Clip the change since `keep`; None if there are no parameters."""
        kept, own = self._kept, self._gradients
        self._kept = {}
        updates = {key: _update(one) for key, one in kept.items()}
        assert isinstance(own, Differences | ShardedDifferences)
        self._optimizer, own.given = optimizer, updates
        own.kept = {key: one.before for key, one in kept.items()}
        self._now = kept
        try:
            outcome = self.after(kept, again=again, defers=True)  # so that nothing waits for a device
        except NonFiniteError:
            for one in kept.values():
                local(one.parameter).copy_(one.before)
            raise
        finally:
            own.given, own.kept, self._now, self._optimizer = {}, {}, {}, None
        if outcome.coefficient is not None:
            factor = tensor_of(outcome.coefficient)
            for update in updates.values():
                update.mul_(factor.to(update.device, _real(update.dtype)))
        report = outcome.report
        known = all(one.before.device.type == "cpu" for one in kept.values())
        if known and not bool(report.clipped) and not bool(report.nonfinite):
            return report
        for key, one in kept.items():
            _write(one, updates[key], report, undo=self.nonfinite == "skip")
        return report

    def _weights(self, xp: Namespace) -> MeasuredTensors | None:
        """The parameters as they were before the step."""
        if self._sharding is not None or "weight_norm" not in self._sees:
            return super()._weights(xp)
        weights = [
            self._now[id(p)].before if id(p) in self._now else p.detach() for p in self.parameters.values()
        ]
        return MeasuredTensors(weights, layout_of(weights, self._slots, xp))

    def _context(self, xp: Namespace) -> StepContext:
        context = super()._context(xp)
        if "moment_ratio" not in self._sees:
            return context
        return StepContext(step=context.step, moment_ratios=self._ratios(xp))

    def _ratios(self, xp: Namespace) -> dict[str, Any]:
        """The root mean square of ``g / max(sqrt(v), eps)`` of each whole tensor."""
        names = [slot.name for slot in self._slots]
        if self._sharding is None:
            owners: list[Tensor | None] = [*self.parameters.values()]
        else:
            owners = [
                None if one.name is None else self.parameters[one.name] for one in self._sharding.entries
            ]
        device = next((one.before.device for one in self._now.values()), torch.device("cpu"))
        sums = []
        for owner in owners:
            one = self._now.get(id(owner))
            if one is None or self._optimizer is None:
                sums.append(torch.zeros((), dtype=wide(device), device=device))
            else:
                found = squares_over_moment(self._optimizer, one.group, one.parameter, one.before)
                sums.append(found.to(device))
        total = torch.stack(sums)
        if self._sharding is not None:
            total = self._sharding.summed(total * total.new_tensor(self._sharding.shares))
        sizes = total.new_tensor([max(1, math.prod(slot.shape)) for slot in self._slots])
        return dict(zip(names, array_on(xp, (total / sizes).sqrt()), strict=True))


def _divisor(rate: float | Tensor) -> float | Tensor:
    if isinstance(rate, Tensor):
        return torch.where(rate == 0, torch.ones_like(rate), rate)
    return rate or 1.0


def _real(dtype: torch.dtype) -> torch.dtype:
    return dtype.to_real() if dtype.is_complex else dtype


def _update(one: _Kept) -> Tensor:
    """``u``, in float32 at least."""
    now = local(one.parameter).detach()
    if now.dtype in (torch.float16, torch.bfloat16):
        return now.float().sub_(one.before).div_(one.rate)
    return (now - one.before).div_(one.rate)


def _write(one: _Kept, clipped: Tensor, report: ClipReport, *, undo: bool) -> None:
    """Move a parameter by its clipped update; where that is what it was, it is left as the step left it."""
    now = local(one.parameter).detach()
    moved = clipped.mul(one.rate).add_(one.before).to(now.dtype)
    found = torch.where(clipped == _update(one), now, moved)
    if undo:
        skipped = torch.as_tensor(tensor_of(report.skipped)).to(now.device)
        found = torch.where(skipped, one.before, found)
    now.copy_(found)
