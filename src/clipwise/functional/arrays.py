"""Measuring, scaling and clamping of immutable arrays."""

from collections.abc import Sequence

from clipwise.clip import Norm, Per
from clipwise.errors import ThresholdError
from clipwise.functional import scaling
from clipwise.functional.arithmetic import Arithmetic
from clipwise.functional.layout import Layout, Places
from clipwise.functional.measure import Measure
from clipwise.functional.slots import Slot
from clipwise.namespace import Array

__all__ = ["MeasuredArrays"]


class MeasuredArrays(Measure):
    """A `Measure` that replaces its arrays and never writes into one, so that it can be traced.

    Args:
        arithmetic: operations of the arrays' framework.
        slots: slots of all parameters that the gradients may belong to.
        arrays: a gradient or None for each slot; for a gradient that is sparse along axis 0, its rows.
    """

    def __init__(self, arithmetic: Arithmetic, slots: Sequence[Slot], arrays: Sequence[Array | None]) -> None:
        present = tuple(place for place, array in enumerate(arrays) if array is not None)
        self._begin(arithmetic, Layout(slots, arithmetic.xp, present), [arrays[place] for place in present])

    def _begin(self, arithmetic: Arithmetic, layout: Layout, arrays: list[Array]) -> None:
        super().__init__(layout)
        self.arithmetic = arithmetic
        self.arrays = arrays

    def full(self) -> list[Array | None]:
        """The arrays by slot, None where there is none."""
        arrays: list[Array | None] = [None] * len(self.layout.all_slots)
        for place, array in zip(self.layout.present, self.arrays, strict=True):
            arrays[place] = array
        return arrays

    def _norms(self, p: float) -> Array:
        return self.arithmetic.norms(self.arrays, p)

    def _unit_norms(self, p: float) -> Array:
        rests = []
        for slot in self.layout.slots:
            whole = not slot.axes or 0 in slot.shape
            rests.append(tuple(range(len(slot.shape))) if whole else slot.rest)
        return self.arithmetic.unit_norms(self.arrays, p, rests)

    def _by_tensor(self, unit_norms: Array, p: float) -> Array:
        return self.arithmetic.joined(unit_norms, self.layout.unit_counts, p)

    def _combined(self, norms: Array, p: float) -> Array:
        if p == 2.0 and all(map(self.arithmetic.squares_fit, self.arrays)):
            return scaling.root(self.xp, self.xp.sum(norms * norms), p)
        return super()._combined(norms, p)

    def _settled(self, coefficients: Array) -> Array:
        return self.arithmetic.settled(coefficients)

    def _multiply(self, coefficients: Array, per: Per) -> None:
        if per == "unit":
            parts, start = [], 0
            for slot, count in zip(self.layout.slots, self.layout.unit_counts, strict=True):
                own = coefficients[start : start + count]
                start += count
                axes = slot.axes if slot.size else ()
                shape = tuple(n if axis in axes else 1 for axis, n in enumerate(slot.shape)) if axes else ()
                parts.append(self.xp.reshape(own, shape))
        elif per == "tensor":
            parts = [coefficients[position] for position in range(len(self.arrays))]
        else:
            parts = [coefficients] * len(self.arrays)
        self.arrays = self.arithmetic.chosen(self.arrays, parts)

    def clamp(self, low: Array, high: Array, *, ordered: bool = False) -> Array:
        if ordered and any(self.arithmetic.is_complex(array) for array in self.arrays):
            raise ThresholdError(
                f"complex gradients have no order for the range ({low}, {high}); give one threshold,"
                " which bounds their modulus"
            )
        low, high = self.xp.asarray(low), self.xp.asarray(high)
        beyond = [self._clamp(position, low, high) for position in range(len(self.arrays))]
        self.forget()
        return self.xp.sum(self.xp.stack(beyond))

    def moduli(self, position: int) -> Array:
        return self.xp.abs(self.arithmetic.wide(self.arrays[position]))

    def moduli_beside(self, weights: "MeasuredArrays", position: int, *, whole: bool) -> tuple[Array, Array]:
        return self.moduli(position), weights.moduli(self.layout.present[position])

    def bound(self, position: int, limit: Array) -> Array:
        return self._clamp(position, -limit, limit)

    def _clamp(self, position: int, low: Array, high: Array) -> Array:
        array = self.arrays[position]
        clamp = (
            self.arithmetic.clamped_moduli if self.arithmetic.is_complex(array) else self.arithmetic.clamped
        )
        self.arrays[position], beyond = clamp(array, low, high)
        return beyond

    def part(self, places: Places) -> "MeasuredArrays":
        chosen, index, layout = self.layout.part(places)
        part = MeasuredArrays.__new__(MeasuredArrays)
        part._begin(self.arithmetic, layout, [self.arrays[position] for position in chosen])
        part._learn_part(self, index)
        return part

    def join(self, parts: "Sequence[MeasuredArrays]", shares: tuple[Places, ...], norm: Norm) -> None:
        super().join(parts, shares, norm)
        by_place = {
            share[number]: array
            for part, share in zip(parts, shares, strict=True)
            for number, array in zip(part.layout.present, part.arrays, strict=True)
        }
        self.arrays = [by_place[place] for place in self.layout.present]

    def only_finite(self, bad: Array, count: Array) -> None:
        self.arrays = [self.arithmetic.only_finite(array) for array in self.arrays]
        self.forget()

    def kept(self) -> Sequence[Array]:
        return list(self.arrays)

    def cosine(self, before: Sequence[Array], size: Array) -> Array:
        xp = self.xp
        lengths = size * self.joint(2.0)
        # Each divided by its own length first, so that no product leaves the range.
        a, b = (xp.where(x > 0, x, xp.full((), 1.0)) for x in (size, self.joint(2.0)))
        products = [self.arithmetic.dot(old, new, a, b) for old, new in zip(before, self.arrays, strict=True)]
        cosine = xp.sum(xp.stack(products))
        # Norms that are carried on, not measured anew, do not know what rounding to a half has added.
        return xp.where((lengths == 0) | (cosine > 1), xp.full((), 1.0), cosine)
