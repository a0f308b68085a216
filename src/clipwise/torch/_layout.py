"""What is known of some tensors by their shapes alone: sizes, units, and where their norms are."""

import itertools
import math
from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from clipwise.clip import Norm, Per
from clipwise.functional import scaling
from clipwise.namespace import Array, Namespace
from clipwise.torch._units import Way
from clipwise.torch.engines._arrays import NUMPY
from clipwise.torch.engines.reference import unit_count

__all__ = ["Layout"]


class Layout:
    """The sizes of some tensors, and what turns norms of parts into norms of wholes.

    Made once for each set of gradients that occurs, so what lies on a device is copied there once.

    Args:
        tensors: at least one; a sparse one counts as if it were dense.
        xp: where their norms live.
        ways: how the units of each lie, None: along axis 0. None in place of all: every one's do.

    Attributes:
        ways: None unless the units of one lie otherwise.
    """

    def __init__(
        self, tensors: Sequence[Tensor], xp: Namespace, ways: Sequence[Way | None] | None = None
    ) -> None:
        self.xp = xp
        self.ways = ways if ways is not None and any(way is not None for way in ways) else None
        self.sizes = [t.numel() for t in tensors]
        self.entries = sum(self.sizes)
        self.unit_counts = [
            unit_count(t) if way is None else way.count(t) for t, way in self._with_ways(tensors)
        ]
        self.units = sum(self.unit_counts)

    def like(self, tensors: Sequence[Tensor]) -> "Layout":
        """The layout of other tensors in the place of these."""
        return Layout(tensors, self.xp, self.ways)

    def some(self, tensors: Sequence[Tensor], places: Sequence[int]) -> "Layout":
        """The layout of those of these tensors that are at some places."""
        ways = self.ways
        return Layout([tensors[i] for i in places], self.xp, ways and [ways[i] for i in places])

    def unit_views(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """These tensors as views whose units lie along axis 0, in the same order."""
        pairs = self._with_ways(tensors)
        return [view for t, way in pairs for view in ((t,) if way is None else way.views(t))]

    def _with_ways(self, tensors: Sequence[Tensor]) -> Iterator[tuple[Tensor, Way | None]]:
        return zip(tensors, self.ways or itertools.repeat(None, len(tensors)), strict=True)

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
