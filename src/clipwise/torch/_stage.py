"""One `Clip` at work: measure the groups, ask for the threshold, scale what is above it."""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor

from clipwise.clip import Clip
from clipwise.errors import ParameterError
from clipwise.functional import scaling
from clipwise.functional.facts import Facts
from clipwise.functional.merging import untouched
from clipwise.namespace import Array, Namespace
from clipwise.report import ClipReport
from clipwise.torch._limit import Limit
from clipwise.torch._measure import Measure
from clipwise.torch._units import Units, Way
from clipwise.torch.engines._arrays import NUMPY

__all__ = ["GlobalStage", "GroupStage", "Stage"]


class Stage(ABC):
    """One clip on a list of parameters.

    Args:
        clip: what to do.
        parameters: all that it may ever see, in a fixed order.
        embeddings: ids of weights that say little about how far a step may go.
        units: of the parameters.
    """

    def __init__(self, clip: Clip, parameters: Sequence[Tensor], embeddings: set[int], units: Units) -> None:
        self.clip = clip
        self.limit = Limit(clip, parameters, embeddings, units)

    @abstractmethod
    def apply(self, measure: Measure, present: tuple[int, ...], facts: Facts) -> ClipReport:
        """Clip the measured gradients in place: those of the parameters at the places ``present``.

        The arrays of the report are of the measure's namespace.
        """

    def refuse_sparse(self, gradient: Tensor, way: Way | None) -> None:
        """Raise if this clip does not take a sparse gradient with such units; nothing is touched yet."""
        return  # most take any


class GlobalStage(Stage):
    """One norm over everything."""

    def apply(self, measure: Measure, present: tuple[int, ...], facts: Facts) -> ClipReport:
        xp = measure.xp
        norm = measure.joint(self.clip.norm)
        heard = measure.heard(norm)
        threshold = self.limit.of(xp, facts, heard, heard, present)
        if xp is NUMPY:
            norm, threshold = float(norm), float(threshold)
        measure.scale_(scaling.coefficient(xp, norm, threshold))
        clipped = norm > threshold
        return ClipReport(
            norm=norm,
            norm_after=scaling.norm_after(xp, norm, threshold),
            threshold=threshold,
            clipped=clipped,
            clip_fraction=float(clipped) if xp is NUMPY else _as_float(xp, clipped),
            direction=1.0 + 0.0 * norm,  # NaN for a norm that is not finite
        )


class GroupStage(Stage):
    """A norm for each tensor, or for each unit."""

    def refuse_sparse(self, gradient: Tensor, way: Way | None) -> None:
        if self.clip.per != "unit":
            return
        if way is not None:
            if way.axes:
                raise ParameterError(
                    f"unit_axes: a sparse gradient has its units along axis 0, or is one unit (None), got"
                    f" {way.axes} for one of shape {tuple(gradient.shape)}"
                )
        elif gradient.ndim > 1 and gradient.sparse_dim() != 1:
            raise ParameterError(
                "per='unit' takes gradients sparse along axis 0 only, got"
                f" {gradient.sparse_dim()} sparse axes"
            )

    def apply(self, measure: Measure, present: tuple[int, ...], facts: Facts) -> ClipReport:
        xp, per, kind = measure.xp, self.clip.per, self.clip.norm
        norms, joint = measure.groups(per, kind), measure.joint(kind)
        threshold = self.limit.of(xp, facts, norms, measure.heard(joint), present)
        clipped = norms > threshold
        tightest = xp.min(xp.where(norms > 0, threshold, xp.inf))
        if xp is NUMPY and not clipped.any() and xp.isfinite(joint):
            return dataclasses.replace(untouched(xp, joint), threshold=tightest)
        coefficients = scaling.coefficient(xp, norms, threshold)
        measure.scale_(coefficients, per)

        before, after = norms, scaling.norm_after(xp, norms, threshold)
        p = kind
        if p == "rms":
            roots = measure.layout.roots(per)
            before, after, p = norms * roots, after * roots, 2.0
        return ClipReport(
            norm=joint,
            norm_after=scaling.combine(xp, after, p) / measure.layout.root(kind),
            threshold=tightest,
            clipped=xp.any(clipped),
            clip_fraction=xp.mean(_as_float(xp, clipped)),
            direction=scaling.direction(xp, before, coefficients) if p == 2.0 else None,
        )


def _as_float(xp: Namespace, flags: Array) -> Array:
    return xp.where(flags, xp.asarray(1.0), xp.asarray(0.0))
