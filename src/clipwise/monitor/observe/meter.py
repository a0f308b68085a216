"""Measures the norms of gradients without changing them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clipwise.functional.merging import untouched
from clipwise.functional.scaling import combine
from clipwise.monitor.observe.bootstrap.own_clips import OwnClip
from clipwise.namespace import namespace_of
from clipwise.report import ClipReport
from clipwise.torch.engines import AnyBatch, array_on, gather, make_batch, tensor_of
from clipwise.torch.reports import in_torch
from clipwise.torch.whole_norms import Norms, plain


class NormMeter:
    """The norms of the gradients of some parameters; unusual gradients are copied to be measured.

    Args:
        parameters: by name.
    """

    def __init__(self, parameters: Mapping[str, Tensor]) -> None:
        self._names, self._parameters = tuple(parameters), list(parameters.values())
        self._spread = any(hasattr(parameter, "placements") for parameter in self._parameters)

    def read(
        self, scale: Any, order: float = 2.0, call: OwnClip | None = None
    ) -> "ClipReport | Measured | None":
        """A report of the current gradients, unscaled if they were scaled.

        None if there is no gradient.

        Args:
            scale: the factor they were multiplied by.
            order: order of the norms.
            call: the call by which the script has clipped them.
        """
        found = self._measured(order)
        if found is None:
            return None
        xp, names, norms = found
        if isinstance(norms, np.ndarray):
            return Measured(names, norms, order, None if scale is None else float(scale), _plainly(call))
        return _report(xp, names, norms, order, scale, call)

    def present(self) -> set[int]:
        """The ids of the parameters that have a gradient."""
        return {id(p) for p in self._parameters if p.grad is not None}

    def _measured(self, order: float) -> Norms | None:
        places, batch = self._batch()
        if batch is None:
            return None
        names = self._names if places is None else tuple(self._names[i] for i in places)
        return Norms(batch.xp, names, batch.norms(order))

    def _batch(self) -> tuple[Sequence[int] | None, AnyBatch | None]:
        if not self._spread:
            places, batch = gather(self._parameters)
            if batch is None or not batch.odd or not any(_is_odd(batch.tensors[i]) for i in batch.odd):
                return places, batch
        there = [(i, p.grad) for i, p in enumerate(self._parameters) if p.grad is not None]
        if not there:
            return (), None
        return [i for i, _ in there], make_batch([plain(gradient) for _, gradient in there])


def with_own_clip(report: ClipReport, call: OwnClip) -> ClipReport:
    """The report of a step whose gradients the script has clipped itself, with the norms from before.

    torch multiplies by ``min(1, threshold / (norm + 1e-6))``; dividing by it restores them.
    """
    after, norms = tensor_of(report.norm), report.tensor_norms
    wide: Any = after.dtype
    norm = tensor_of(call.norm).detach().to(after.device, wide)
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


class Measured:
    """Norms on the host. What a report says of them is computed when it is read, which is not in the step.

    Args:
        names, norms: of the gradients.
        order: of the norms.
        scale: what they were multiplied by, None for 1.
        call: norm and threshold of a clip of the script's own.
    """

    __slots__ = ("call", "names", "norms", "order", "scale", "skipped")

    def __init__(
        self,
        names: Sequence[str],
        norms: np.ndarray[Any, np.dtype[np.float64]],
        order: float,
        scale: float | None,
        call: tuple[float, float] | None,
    ) -> None:
        self.names, self.norms, self.order, self.scale, self.call = names, norms, order, scale, call
        self.skipped: Any = False

    def on_host(self) -> ClipReport:
        """The report."""
        with np.errstate(all="ignore"):  # norms may be NaN or Inf here
            return self._report()

    def _report(self) -> ClipReport:
        norms = self.norms if self.scale is None else self.norms / self.scale
        norm = after = _whole(norms, self.order)
        threshold, factor = math.inf, 1.0
        if self.call is not None:
            norm, threshold = self.call
            factor = _factor(norm, threshold)
            after = norm * factor
            if factor > 0:
                norms = norms / factor
        clipped = factor < 1.0
        return ClipReport(
            norm=norm,
            norm_after=after,
            threshold=threshold,
            clipped=clipped,
            clip_fraction=float(clipped),
            direction=1.0,
            nonfinite=0.0 if math.isfinite(norm) else float(np.count_nonzero(~np.isfinite(norms))),
            skipped=self.skipped,
            names=self.names,
            tensor_norms=norms,
        )


def _factor(norm: float, threshold: float) -> float:
    """What torch multiplies by: ``min(1, threshold / (norm + 1e-6))``; NaN stays NaN."""
    factor = threshold / (norm + 1e-6)
    return 1.0 if factor > 1.0 else factor


def _whole(norms: np.ndarray[Any, np.dtype[np.float64]], order: float) -> float:
    """The norm of a whole from those of its parts; `math.hypot` scales by the largest by itself."""
    parts = norms.tolist()
    if order == 2.0 and not math.isnan(sum(parts)):
        return math.hypot(*parts)
    return float(combine(namespace_of(norms), norms, order))


def _plainly(call: OwnClip | None) -> tuple[float, float] | None:
    return None if call is None else (float(call.norm), call.threshold)


@torch.no_grad()
def _report(
    xp: Any, names: Sequence[str], norms: Any, order: float, scale: Any, call: OwnClip | None
) -> ClipReport:
    """Of norms on a device, which nothing waits for."""
    if scale is not None:
        norms = norms / array_on(xp, scale)
    report = in_torch(
        replace(
            untouched(xp, combine(xp, norms, order)),
            names=names,
            tensor_norms=norms,
            nonfinite=xp.sum(~xp.isfinite(norms)),
        )
    )
    return report if call is None else with_own_clip(report, call)


def _is_odd(gradient: Tensor) -> bool:
    return gradient.is_sparse or gradient.is_conj() or gradient.is_neg()
