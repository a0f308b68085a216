"""Norms of the gradients as they lie there, which stay as they are."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clipwise.functional.merging import untouched
from clipwise.functional.scaling import combine
from clipwise.monitor.observe.bootstrap.own_clips import OwnClip
from clipwise.report import ClipReport
from clipwise.torch.engines import AnyBatch, array_on, gather, make_batch
from clipwise.torch.reports import in_torch


class NormMeter:
    """The norms of the gradients of some parameters; what has no plain form is measured in a copy.

    Args:
        parameters: by name.
    """

    def __init__(self, parameters: Mapping[str, Tensor]) -> None:
        self._names, self._parameters = tuple(parameters), list(parameters.values())
        self._spread = any(hasattr(parameter, "placements") for parameter in self._parameters)
        self._present: Sequence[int] = ()

    @torch.no_grad()
    def read(self, scale: Tensor | None, order: float = 2.0) -> ClipReport | None:
        """A report of the gradients as they are now, without a scale that they were multiplied by.

        None where there is no gradient.

        Args:
            scale: what they were multiplied by.
            order: of the norms.
        """
        with np.errstate(all="ignore"):  # norms of NaN and Inf are part of the business
            places, batch = self._batch()
            if batch is None:
                return None
            self._present = range(len(self._names)) if places is None else places
            xp, norms = batch.xp, batch.norms(order)
            if scale is not None:
                norms = norms / array_on(xp, scale)
            report = replace(
                untouched(xp, combine(xp, norms, order)),
                names=self._names if places is None else tuple(self._names[i] for i in places),
                tensor_norms=norms,
                nonfinite=xp.sum(~xp.isfinite(norms)),
            )
            return in_torch(report)

    def present(self) -> set[int]:
        """The ids of the parameters that had a gradient at the last reading."""
        return {id(self._parameters[i]) for i in self._present}

    def _batch(self) -> tuple[Sequence[int] | None, AnyBatch | None]:
        if not self._spread:
            places, batch = gather(self._parameters)
            if batch is None or not any(_is_odd(batch.tensors[i]) for i in batch.odd):
                return places, batch
        there = [(i, p.grad) for i, p in enumerate(self._parameters) if p.grad is not None]
        if not there:
            return (), None
        return [i for i, _ in there], make_batch([_plain(gradient) for _, gradient in there])


@torch.no_grad()
def with_own_clip(report: ClipReport, call: OwnClip) -> ClipReport:
    """The report of a step whose gradients the script has clipped by itself: norms are those from before.

    torch multiplies by ``min(1, threshold / (norm + 1e-6))``; dividing by it gives what there was.
    """
    after, norms = torch.as_tensor(report.norm), report.tensor_norms
    wide: Any = after.dtype
    norm = torch.as_tensor(call.norm).detach().to(after.device, wide)
    factor = torch.clamp(call.threshold / (norm + 1e-6), max=1.0)
    assert norms is not None
    return replace(
        report,
        norm=norm,
        norm_after=norm * factor,
        threshold=torch.full_like(norm, call.threshold),
        clipped=factor < 1.0,
        clip_fraction=(factor < 1.0).to(wide),
        # A factor of 0, or of NaN, has left nothing to say of it.
        tensor_norms=torch.where(factor > 0, norms / factor, norms),
    )


def _is_odd(gradient: Tensor) -> bool:
    return gradient.is_sparse or gradient.is_conj() or gradient.is_neg()


def _plain(gradient: Any) -> Tensor:
    """A gradient whose entries can be read: itself, or a copy."""
    found: Any = gradient.to_local() if hasattr(gradient, "to_local") else gradient
    if found.is_sparse:
        return found if found.is_coalesced() else found.coalesce()  # type: ignore[no-any-return]
    return found.resolve_conj().resolve_neg()  # type: ignore[no-any-return]
