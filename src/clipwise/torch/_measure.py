"""Measuring, scaling and clamping torch's tensors in place, through an engine."""

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clipwise.clip import Norm, Per
from clipwise.functional import scaling
from clipwise.functional.layout import Layout, Places
from clipwise.functional.measure import Measure
from clipwise.namespace import Array
from clipwise.torch._slots import layout_of, unit_views
from clipwise.torch.engines import AnyBatch, make_batch, reference
from clipwise.torch.engines._arrays import NUMPY, array_on, tensor_of, wide
from clipwise.torch.engines.reference import values_of

FOLDS_FROM = 1 << 23
"""Entries from which on a fused optimizer on the CPU is given a coefficient: 32 MiB of float32."""


class MeasuredTensors(Measure):
    """A `Measure` that writes into the tensors it is given.

    On the CPU norms and thresholds are numpy's, single ones plain floats: there a branch costs nothing, and
    what need not be done is not done. Elsewhere nothing waits for the device.

    Args:
        tensors: at least one.
        layout: of the same tensors.
        batch: the same in an engine's hands, if they are.
        scale: what they were multiplied by (a gradient scaler's scale, 0-d); norms are those without it.

    Attributes:
        folds: what follows can multiply the tensors by one coefficient, which is then left to it.
        folded: that coefficient; None: there is nothing left to do.
    """

    def __init__(
        self,
        tensors: Sequence[Tensor],
        layout: Layout,
        batch: AnyBatch | None = None,
        scale: Tensor | None = None,
    ) -> None:
        super().__init__(layout)
        self.tensors = tensors
        self.on_cpu = self.xp is NUMPY
        self.defers = False
        self.loss_scale = None if scale is None else array_on(self.xp, scale)
        self.folds = False
        self.folded: Array | None = None
        self._batch = batch

    @property
    def batch(self) -> AnyBatch:
        """The tensors in an engine's hands."""
        if self._batch is None:
            self._batch = make_batch(self.tensors)
            if self._batch.entries != self.layout.entries:
                self._lay_out_anew()
        return self._batch

    @cached_property
    def _unit_batch(self) -> AnyBatch:
        """The tensors as an engine finds their units: as they are, or in views."""
        if self.layout.has_rows:
            return self.batch
        return make_batch(unit_views(self.tensors, self.layout.slots))

    def _lay_out_anew(self) -> None:
        layout = self.layout
        self.layout = layout_of(self.tensors, layout.all_slots, layout.xp, layout.present)

    # Norms.

    def _norms(self, p: float) -> Array:
        return self._true(self.batch.norms(p))

    def _unit_norms(self, p: float) -> Array:
        norms = self._true(self._unit_batch.unit_norms(p))
        if norms.shape[0] != self.layout.units:  # as many entries as before, in another shape
            self._lay_out_anew()
        return norms

    def _true(self, norms: Array) -> Array:
        if self.on_cpu and isinstance(norms, Tensor):  # of an engine that keeps them in torch
            norms = norms.numpy()
        return norms if self.loss_scale is None else norms / self.loss_scale

    def _by_tensor(self, unit_norms: Array, p: float) -> Array:
        if not self.on_cpu:
            return _of_tensors(unit_norms.split(self.layout.unit_counts), p)
        starts, counts = self.layout.unit_starts
        largest = np.maximum.reduceat(unit_norms, starts)
        if p == math.inf:
            return largest
        divisor = np.where((largest > 0) & (largest < math.inf), largest, 1.0)
        parts = (unit_norms / np.repeat(divisor, counts)) ** p
        return divisor * np.add.reduceat(parts, starts) ** (1.0 / p)

    def _combined(self, norms: Array, p: float) -> Array:
        if p == 2.0 and self.on_cpu:  # in fewer operations where no square leaves the range
            total = norms.dot(norms)
            if 1e-280 < total < np.inf:
                return np.sqrt(total)
        return scaling.combine(self.xp, norms, p)

    def moduli(self, position: int) -> Array:
        return self._moduli(self.tensors[position])

    def moduli_beside(self, weights: "MeasuredTensors", position: int, *, whole: bool) -> tuple[Array, Array]:
        gradient, weight = self.tensors[position], weights.tensors[self.layout.present[position]].detach()
        if gradient.is_sparse and whole:
            gradient = gradient.to_dense()
        elif gradient.is_sparse:
            gradient, weight = gradient._values(), weight[tuple(gradient._indices())]
        return self._true(self._moduli(gradient)), self._moduli(weight)

    def _moduli(self, tensor: Tensor) -> Array:
        moduli = tensor.detach().abs().to(wide(tensor.device))
        return moduli.cpu().numpy() if self.on_cpu else moduli.to(self.xp.device)

    # What a threshold is on the CPU, and elsewhere.

    def number(self, value: Any) -> Array:
        if self.on_cpu:
            return float(value)
        return self.xp.astype(self.xp.asarray(value), self.xp.float_dtype)

    def as_threshold(self, value: Any) -> Array:
        if not self.on_cpu:
            return self.xp.clip(self.xp.asarray(value), 0.0, None)
        if getattr(value, "ndim", 0):
            return np.clip(value, 0.0, None)
        return max(float(value), 0.0)

    def is_idle(self, clipped: Array, joint: Array) -> bool:
        return self.on_cpu and not clipped.any() and math.isfinite(joint)

    def nonfinite(self, norms: Array, norm: Norm) -> tuple[Array, Array]:
        if self.on_cpu and math.isfinite(self.joint(norm)):
            return (), 0
        bad = ~self.xp.isfinite(norms)
        return bad, self.xp.sum(bad)

    # What is done to the tensors.

    def _multiply(self, coefficients: Array, per: Per) -> None:
        if self.leave is True:
            return
        if self.folds and per == "global" and self._can_fold(coefficients):
            if not self.on_cpu or coefficients != 1.0:
                self.folded = coefficients
            return
        if self.leave is not None:
            coefficients = self.xp.where(self.leave, 1.0, coefficients)
        if per == "unit":
            self._unit_batch.scale_units_(coefficients)
        else:
            self.batch.scale_(coefficients)

    def _can_fold(self, coefficient: Array) -> bool:
        """Whether it is better, on the CPU, not to multiply but to leave it to the optimizer.

        It is for float32 that no cache holds: there another pass costs more than the division by it.
        And float32 must hold the inverse, which is what an optimizer wants; on a device asking would wait.
        """
        if not self.on_cpu:
            return True
        large = self.layout.entries >= FOLDS_FROM and self.tensors[0].dtype == torch.float32
        return large and not 0 < coefficient < 2.0**-100

    def clamp(self, low: Array, high: Array, *, ordered: bool = False) -> Array:
        if self.leave is True:
            return self.number(0.0)
        beyond, after = self._clamped(low, high)
        if after is not None:
            self._tensors[2.0] = self._true(after)
        return self.xp.sum(beyond)

    def _clamped(self, low: Array, high: Array) -> tuple[Array, Array | None]:
        """For each tensor how many entries were beyond, and its 2-norm now if that is known, unscaled."""
        if self.loss_scale is not None:
            low, high = low * self.loss_scale, high * self.loss_scale
        if self.leave is not None:
            low, high = (self.xp.where(self.leave, end, x) for end, x in ((-math.inf, low), (math.inf, high)))
        beyond, _, after = self.batch.clamp_(low, high)
        self.forget()
        return beyond, after

    def bound(self, position: int, limit: Array) -> Array:
        if self.leave is True:
            return self.number(0.0)
        if self.loss_scale is not None:
            limit = limit * self.loss_scale
        if self.leave is not None:
            limit = self.xp.where(self.leave, math.inf, limit)
        gradient, own = self.tensors[position], tensor_of(limit)
        if gradient.is_sparse and own.shape == gradient.shape:
            own = own.to(gradient.device)[tuple(gradient._indices())]
        own = own.to(gradient.device)
        return array_on(self.xp, reference.clamp_(values_of(gradient), -own, own))

    def only_finite(self, bad: Array, count: Array) -> None:
        if not bool(count):
            return
        for tensor, is_bad in zip(self.tensors, bad.tolist(), strict=True):
            if is_bad:
                values = values_of(tensor)
                values.copy_(torch.where(values.isfinite(), values, torch.zeros_like(values)))
        self.forget()

    def kept(self) -> Sequence[Tensor]:
        return [values_of(tensor).clone() for tensor in self.tensors]

    def cosine(self, before: Sequence[Tensor], size: Array) -> Array:
        xp = self.xp
        sizes = [tensor_of(xp.where((s > 0) & xp.isfinite(s), s, 1.0)) for s in (size, self.joint(2.0))]
        sums = [xp.asarray(0.0) for _ in range(3)]
        for old, new in zip(before, self.tensors, strict=True):
            found = reference.cosine(old, values_of(new), (sizes[0], sizes[1]))
            sums = [total + array_on(xp, value) for total, value in zip(sums, found, strict=True)]
        lengths = xp.sqrt(sums[1]) * xp.sqrt(sums[2])
        return xp.where(lengths > 0, sums[0] / lengths, 1.0)

    # Some of them.

    def part(self, places: Places) -> "MeasuredTensors":
        if len(places) == len(self.layout.all_slots):
            return self
        chosen, index, layout = self.layout.part(places)
        part = MeasuredTensors([self.tensors[i] for i in chosen], layout)
        part.loss_scale = self.loss_scale
        part._learn_part(self, index)
        return part


def _of_tensors(parts: Sequence[Tensor], p: float) -> Tensor:
    """The norm of each tensor from those of its units, where they are: those of as many units in one go."""
    alike: dict[int, list[int]] = {}
    for place, part in enumerate(parts):
        alike.setdefault(len(part), []).append(place)
    found: dict[int, Tensor] = {}
    for places in alike.values():
        norms = torch.stack([parts[i] for i in places])
        largest = norms.amax(dim=1)
        if p != math.inf:
            divisor = torch.where((largest > 0) & (largest < math.inf), largest, 1.0)
            powers = (norms / divisor[:, None]) ** p
            largest = divisor * powers.sum(dim=1) ** (1.0 / p)
        found |= dict(zip(places, largest.unbind(), strict=True))
    return torch.stack([found[place] for place in range(len(parts))])
