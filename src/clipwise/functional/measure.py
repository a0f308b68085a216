"""The norms of some gradients as they are now: each measured once, and kept true by what is done to them."""

import math
from collections.abc import Sequence

from clipwise.clip import Norm, Per
from clipwise.functional import scaling
from clipwise.functional.arithmetic import Arithmetic
from clipwise.functional.scaling import order_of
from clipwise.functional.slots import Slot
from clipwise.namespace import Array

__all__ = ["Measure"]


class Measure:
    """Norms by tensor, unit or all together, cached; scaling and clamping keep the cache true.

    It replaces the arrays it holds and never writes into one, so it can be traced.

    Args:
        arithmetic: of the arrays' framework.
        slots: of all parameters that the gradients may be of.
        arrays: a gradient or None for each of them. Of a gradient that is sparse along axis 0, its rows.
        leave: whether no threshold is to learn from this step, where that is known on the device only (0-d).

    Attributes:
        present: the places of the gradients that are there.
    """

    def __init__(
        self,
        arithmetic: Arithmetic,
        slots: Sequence[Slot],
        arrays: Sequence[Array | None],
        leave: Array | None = None,
    ) -> None:
        self.arithmetic = arithmetic
        self.xp = arithmetic.xp
        self.all_slots = slots
        self.leave = leave
        self.present = tuple(place for place, array in enumerate(arrays) if array is not None)
        self.slots = [slots[place] for place in self.present]
        self.arrays: list[Array] = [arrays[place] for place in self.present]
        self._tensors: dict[float, Array] = {}
        self._units: dict[float, Array] = {}
        self._joints: dict[Norm, Array] = {}

    @property
    def entries(self) -> int:
        """How many entries there are, those of sparse gradients included that are 0."""
        return sum(slot.size for slot in self.slots)

    def tensor_norms(self, p: float) -> Array:
        """The p-norm of each array, one vector."""
        if p not in self._tensors:
            if p in self._units:
                self._tensors[p] = self.arithmetic.joined(self._units[p], self.counts("unit"), p)
            else:
                self._tensors[p] = self.arithmetic.norms(self.arrays, p)
        return self._tensors[p]

    def unit_norms(self, p: float) -> Array:
        """The p-norms of the units of all arrays, one vector."""
        if p not in self._units:
            rests = []
            for slot in self.slots:
                whole = not slot.axes or 0 in slot.shape
                rests.append(tuple(range(len(slot.shape))) if whole else slot.rest)
            self._units[p] = self.arithmetic.unit_norms(self.arrays, p, rests)
        return self._units[p]

    def groups(self, per: Per, norm: Norm) -> Array:
        """The norms of the groups, one vector: of all units, or of each tensor."""
        p = order_of(norm)
        norms = self.unit_norms(p) if per == "unit" else self.tensor_norms(p)
        return self.heard(norms / self.roots(per) if norm == "rms" else norms)

    def heard(self, norms: Array) -> Array:
        """Norms as a threshold is told them: NaN, which enters no history, of a step that is left out."""
        return norms if self.leave is None else self.xp.where(self.leave, self.xp.nan, norms)

    def joint(self, norm: Norm) -> Array:
        """The norm of all arrays together, 0-d."""
        if norm not in self._joints:
            p = order_of(norm)
            joint = scaling.combine(self.xp, self.tensor_norms(p), p)
            self._joints[norm] = joint / self.root(norm)
        return self._joints[norm]

    def counts(self, per: Per) -> list[int]:
        """How many groups each array has."""
        return [slot.units if per == "unit" else 1 for slot in self.slots]

    def group_sizes(self, per: Per) -> Array:
        """The number of entries of each group."""
        pairs = zip(self.slots, self.counts(per), strict=True)
        return self._array([slot.size / n for slot, n in pairs for _ in range(n)])

    def roots(self, per: Per) -> Array:
        """What the 2-norm of each group is divided by to be its root mean square."""
        pairs = zip(self.slots, self.counts(per), strict=True)
        return self._array([math.sqrt(max(slot.size / n, 1)) for slot, n in pairs for _ in range(n)])

    def root(self, norm: Norm) -> float:
        """What the joint 2-norm is divided by to be the root mean square; 1 for other norms."""
        return math.sqrt(max(self.entries, 1)) if norm == "rms" else 1.0

    def scale(self, coefficients: Array, per: Per = "global") -> None:
        """Multiply by one coefficient, or by one a tensor or unit."""
        xp, coefficients = self.xp, self.arithmetic.settled(coefficients)
        if per == "unit":
            parts, start = [], 0
            for slot in self.slots:
                own = coefficients[start : start + slot.units]
                start += slot.units
                axes = slot.axes if slot.size else ()
                shape = tuple(n if axis in axes else 1 for axis, n in enumerate(slot.shape)) if axes else ()
                parts.append(xp.reshape(own, shape))
        elif per == "tensor":
            parts = [coefficients[place] for place in range(len(self.arrays))]
        else:
            parts = [coefficients] * len(self.arrays)
        self.arrays = self.arithmetic.chosen(self.arrays, parts)
        self._joints = {}
        if per == "unit":
            self._units = {p: norms * coefficients for p, norms in self._units.items()}
            self._tensors = {}
        else:
            self._tensors = {p: norms * coefficients for p, norms in self._tensors.items()}
            self._units = {}

    def replace(self, arrays: Sequence[Array]) -> None:
        """Other arrays in the place of these; they are measured anew."""
        self.arrays = list(arrays)
        self._tensors, self._units, self._joints = {}, {}, {}

    def part(self, places: Sequence[int]) -> "Measure":
        """The measure of some of all slots, with what is known of them."""
        arrays: list[Array | None] = [None] * len(self.all_slots)
        for place, array in zip(self.present, self.arrays, strict=True):
            arrays[place] = array
        part = Measure(
            self.arithmetic,
            [self.all_slots[i] for i in places],
            [arrays[i] for i in places],
            self.leave,
        )
        where = [self.present.index(places[i]) for i in part.present]
        if where:
            index = self.xp.asarray(where, dtype=self.xp.int32)
            part._tensors = {p: self.xp.take(norms, index, axis=0) for p, norms in self._tensors.items()}
        return part

    def full(self) -> list[Array | None]:
        """The arrays by slot, None where there was none."""
        arrays: list[Array | None] = [None] * len(self.all_slots)
        for place, array in zip(self.present, self.arrays, strict=True):
            arrays[place] = array
        return arrays

    def _array(self, values: Sequence[float]) -> Array:
        return self.xp.asarray(values, dtype=self.xp.float_dtype)
