"""What is known of some tensors by their shapes alone: sizes, units, and where their norms are."""

import math
from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from clipwise.clip import Norm, Per
from clipwise.functional import scaling
from clipwise.namespace import Array, Namespace
from clipwise.torch.engines._arrays import NUMPY
from clipwise.torch.engines.reference import unit_count

__all__ = ["Layout"]


class Layout:
    """The sizes of some tensors, and what turns norms of parts into norms of wholes.

    Made once for each set of gradients that occurs, so what lies on a device is copied there once.

    Args:
        tensors: at least one; a sparse one counts as if it were dense.
        xp: where their norms live.
    """

    def __init__(self, tensors: Sequence[Tensor], xp: Namespace) -> None:
        self.xp = xp
        self.sizes = [t.numel() for t in tensors]
        self.entries = sum(self.sizes)
        self.unit_counts = [unit_count(t) for t in tensors]
        self.units = sum(self.unit_counts)

    def group_sizes(self, per: Per) -> Array:
        """The number of entries of each group."""
        return self._unit_sizes if per == "unit" else self._tensor_sizes

    def roots(self, per: Per) -> Array:
        """What the 2-norm of each group is divided by to be its root mean square."""
        return self._unit_roots if per == "unit" else self._tensor_roots

    def root(self, norm: Norm) -> float:
        """What the joint 2-norm is divided by to be the root mean square; 1 for other norms."""
        return math.sqrt(max(self.entries, 1)) if norm == "rms" else 1.0

    def by_tensor(self, unit_norms: Array, p: float) -> Array:
        """The p-norms of the tensors from those of their units."""
        if self.xp is NUMPY:
            largest = np.maximum.reduceat(unit_norms, self._starts)
            if p == math.inf:
                return largest
            divisor = np.where((largest > 0) & (largest < math.inf), largest, 1.0)
            parts = (unit_norms / np.repeat(divisor, self.unit_counts)) ** p
            return divisor * np.add.reduceat(parts, self._starts) ** (1.0 / p)
        each = unit_norms.split(self.unit_counts)
        return torch.stack([scaling.combine(self.xp, units, p) for units in each])

    @cached_property
    def _starts(self) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        return np.cumsum([0, *self.unit_counts[:-1]])

    @cached_property
    def _tensor_sizes(self) -> Array:
        return self._array(self.sizes)

    @cached_property
    def _unit_sizes(self) -> Array:
        pairs = zip(self.sizes, self.unit_counts, strict=True)
        return self._array([size / count for size, count in pairs for _ in range(count)])

    @cached_property
    def _tensor_roots(self) -> Array:
        return self._array([math.sqrt(max(size, 1)) for size in self.sizes])

    @cached_property
    def _unit_roots(self) -> Array:
        pairs = zip(self.sizes, self.unit_counts, strict=True)
        return self._array([math.sqrt(max(size / n, 1)) for size, n in pairs for _ in range(n)])

    def _array(self, values: Sequence[float]) -> Array:
        return self.xp.asarray(np.asarray(values, dtype=np.float64).tolist(), dtype=self.xp.zeros(()).dtype)
