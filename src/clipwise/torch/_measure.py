"""The norms of a list of tensors as they are now: each measured once, and kept true by what is done."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from clipwise.clip import Norm, Per
from clipwise.functional import scaling
from clipwise.functional.scaling import order_of
from clipwise.namespace import Array
from clipwise.torch._layout import Layout
from clipwise.torch.engines import AnyBatch, make_batch
from clipwise.torch.engines._arrays import NUMPY, array_on

__all__ = ["Measure"]


FOLDS_FROM = 1 << 23
"""Entries from which on a fused optimizer on the CPU is given a coefficient: 32 MiB of float32."""


class Measure:
    """Norms by tensor, unit or all together, cached; scaling and clamping keep the cache true.

    Args:
        batch: the tensors, in an engine's hands.
        layout: of the same tensors.
        scale: what they were multiplied by (a gradient scaler's scale, 0-d); norms are those without it.

    Attributes:
        folded: with `folds`, what `scale_` was given in place of scaling.
        leave: whether the tensors are to be left as they are, and no threshold is to learn from them, where
            that is known on the device only (0-d); None: they are not.
    """

    def __init__(self, batch: AnyBatch, layout: Layout, scale: Tensor | None = None) -> None:
        self.batch = batch
        self.layout = layout
        self.xp = batch.xp
        self.scale = None if scale is None else array_on(self.xp, scale)
        self.folds = False
        self.folded: Array | None = None
        self.leave: Array | None = None
        self._tensors: dict[float, Array] = {}
        self._units: dict[float, Array] = {}
        self._joints: dict[Norm, Array] = {}
        self._unit_batch: AnyBatch | None = None

    @property
    def tensors(self) -> Sequence[Tensor]:
        return self.batch.tensors

    def tensor_norms(self, p: float) -> Array:
        """The p-norm of each tensor, one vector."""
        if p not in self._tensors:
            if p in self._units:
                self._tensors[p] = self.layout.by_tensor(self._units[p], p)
            else:
                self._tensors[p] = self._true(self.batch.norms(p))
        return self._tensors[p]

    def unit_norms(self, p: float) -> Array:
        """The p-norms of the units of all tensors, one vector."""
        if p not in self._units:
            self._units[p] = self._true(self._by_unit().unit_norms(p))
            if self._units[p].shape[0] != self.layout.units:
                # The data of a parameter was exchanged for as many entries of another shape.
                self.layout = self.layout.like(self.tensors)
        return self._units[p]

    def groups(self, per: Per, norm: Norm) -> Array:
        """The norms of the groups: of all units, or of each tensor."""
        p = order_of(norm)
        norms = self.unit_norms(p) if per == "unit" else self.tensor_norms(p)
        return self.heard(norms / self.layout.roots(per) if norm == "rms" else norms)

    def heard(self, norms: Array) -> Array:
        """Norms as a threshold is told them: NaN, which enters no history, of tensors that are left alone."""
        return norms if self.leave is None else self.xp.where(self.leave, self.xp.nan, norms)

    def joint(self, norm: Norm) -> Array:
        """The norm of all tensors together, 0-d."""
        if norm in self._joints:
            return self._joints[norm]
        p = order_of(norm)
        norms = self.tensor_norms(p)
        joint = scaling.combine(self.xp, norms, p) if self.xp is not NUMPY else _combine(norms, p)
        self._joints[norm] = joint / self.layout.root(norm) if norm == "rms" else joint
        return self._joints[norm]

    def scale_(self, coefficients: Array, per: Per = "global") -> None:
        """Multiply in place by one coefficient, or by one a tensor or unit."""
        if per == "global" and self.folds and self._can_fold(coefficients):
            if self.xp is not NUMPY or coefficients != 1.0:
                self.folded = coefficients
        else:
            self._write(coefficients, per)
        self._joints = {}
        if per == "unit":
            self._units = {p: norms * coefficients for p, norms in self._units.items()}
            self._tensors = {}
        else:
            self._tensors = {p: norms * coefficients for p, norms in self._tensors.items()}
            self._units = {}

    def _write(self, coefficients: Array, per: Per) -> None:
        if self.leave is not None:
            coefficients = self.xp.where(self.leave, 1.0, coefficients)
        if per == "unit":
            self._by_unit().scale_units_(coefficients)
        else:
            self.batch.scale_(coefficients)

    def _by_unit(self) -> AnyBatch:
        """The tensors as an engine finds their units: as they are, or in views."""
        if self.layout.ways is None:
            return self.batch
        if self._unit_batch is None:
            self._unit_batch = make_batch(self.layout.unit_views(self.tensors))
        return self._unit_batch

    def clamp_(self, low: Array, high: Array) -> Array:
        """Bound every entry in place; returns how many were beyond, 0-d."""
        if self.scale is not None:
            low, high = low * self.scale, high * self.scale
        if self.leave is not None:
            low, high = (self.xp.where(self.leave, end, x) for end, x in ((-math.inf, low), (math.inf, high)))
        beyond, _, after = self.batch.clamp_(low, high)
        self.forget()
        if after is not None:
            self._tensors[2.0] = self._true(after)
        return self.xp.sum(beyond)

    def forget(self) -> None:
        """Measure anew: the tensors were changed from outside."""
        self._tensors, self._units, self._joints = {}, {}, {}

    def part(self, places: Sequence[int], index: Array, layout: Layout) -> "Measure":
        """The measure of some of the tensors, with what is known of them.

        Args:
            places: which.
            index: the same as an array.
            layout: theirs.
        """
        part = Measure(make_batch([self.tensors[i] for i in places]), layout)
        part.scale, part.leave = self.scale, self.leave
        part._tensors = {p: self.xp.take(norms, index, axis=0) for p, norms in self._tensors.items()}
        return part

    def join(self, parts: Sequence["Measure"], order: Array, norm: Norm) -> None:
        """Learn from the parts, which together are everything, what was done to them.

        Args:
            parts: in any order.
            order: where each of these tensors is in the parts one after the other.
            norm: which norm to learn.
        """
        p = order_of(norm)
        norms = self.xp.concat([part.tensor_norms(p) for part in parts])
        self.forget()
        self._tensors[p] = self.xp.take(norms, order, axis=0)

    def _can_fold(self, coefficient: Array) -> bool:
        """Whether it is better, on the CPU, not to multiply but to leave it to the optimizer.

        It is for float32 that no cache holds: there another pass costs more than the division by it.
        And float32 must hold the inverse, which is what an optimizer wants; on a device asking would wait.
        """
        if self.xp is not NUMPY:
            return True
        large = self.layout.entries >= FOLDS_FROM and self.tensors[0].dtype == torch.float32
        return large and not 0 < coefficient < 2.0**-100

    def _true(self, norms: Array) -> Array:
        return norms if self.scale is None else norms / self.scale


def _combine(norms: Array, p: float) -> Array:
    """`scaling.combine` on numpy, in fewer operations where no square leaves the range."""
    if p == 2.0:
        total = norms.dot(norms)
        if 1e-280 < total < np.inf:
            return np.sqrt(total)
    return scaling.combine(NUMPY, norms, p)
