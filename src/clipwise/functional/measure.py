"""Norms of some arrays, each measured once and updated when the arrays are scaled or clamped."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Self

from clipwise.clip import Norm, Per
from clipwise.functional import scaling
from clipwise.functional.layout import Layout, Places
from clipwise.functional.scaling import order_of
from clipwise.namespace import Array

__all__ = ["Measure"]


class Measure(ABC):
    """Cached norms per tensor, per unit or of all arrays; scaling and clamping update the cache.

    A back end implements the measuring and scaling, for immutable arrays that are replaced or for tensors
    that are written to.

    Args:
        layout: layout of the arrays.

    Attributes:
        leave: whether the step is skipped, so that the arrays stay unchanged and no threshold learns from
            them: a 0-d array if only the device knows, True if the host does, None if it is not skipped.
        judged: what the clips found that may skip the step.
        defers: whether ``leave`` is found out on the device only, without a host-device sync.
    """

    defers: bool = True

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.xp = layout.xp
        self.leave: Array | bool | None = None
        self.judged: dict[Any, Any] = {}
        self._tensors: dict[float, Array] = {}
        self._units: dict[float, Array] = {}
        self._joints: dict[Norm, Array] = {}

    # What a back end gives.

    @abstractmethod
    def _norms(self, p: float) -> Array:
        """The p-norm of each array, one vector."""

    @abstractmethod
    def _unit_norms(self, p: float) -> Array:
        """The p-norms of the units of all arrays, one vector."""

    @abstractmethod
    def _by_tensor(self, unit_norms: Array, p: float) -> Array:
        """The p-norms of the arrays from those of their units."""

    @abstractmethod
    def _multiply(self, coefficients: Array, per: Per) -> None:
        """Multiply the arrays by one coefficient, or by one a tensor or unit."""

    @abstractmethod
    def clamp(self, low: Array, high: Array, *, ordered: bool = False) -> Array:
        """Bound every entry; how many were beyond, 0-d.

        Args:
            low, high: numbers or 0-d.
            ordered: entries have to have an order. Otherwise ``low = -high``, and moduli are bounded.

        Raises:
            ThresholdError: complex entries have none.
        """

    @abstractmethod
    def moduli(self, position: int) -> Array:
        """The moduli of the entries of one of the arrays, in the wide float."""

    @abstractmethod
    def moduli_beside(self, weights: Self, position: int, *, whole: bool) -> tuple[Array, Array]:
        """`moduli` of one of the arrays and of its weight, of all entries or only of those that are stored.

        Args:
            weights: of the parameters, all of them.
            position: among these arrays.
            whole: all entries.
        """

    @abstractmethod
    def bound(self, position: int, limit: Array) -> Array:
        """Bound the moduli of one of the arrays by a limit for each entry; how many were beyond, 0-d."""

    @abstractmethod
    def part(self, places: Places) -> Self:
        """The measure of the arrays of some of all slots, with what is known of them."""

    @abstractmethod
    def only_finite(self, bad: Array, count: Array) -> None:
        """Put 0 in place of NaN and Inf. ``bad`` says for each array whether it has any."""

    @abstractmethod
    def kept(self) -> Sequence[Any]:
        """The entries as they are now, for `cosine`."""

    @abstractmethod
    def cosine(self, before: Sequence[Any], size: Array) -> Array:
        """The cosine between what was kept, of this 2-norm, and the arrays as they are now."""

    # What it may do better.

    def number(self, value: Any) -> Array:
        """A number in the wide float."""
        return self.xp.astype(self.xp.asarray(value), self.xp.float_dtype)

    def as_threshold(self, value: Any) -> Array:
        """What a policy gave in the wide float; a negative one, of a policy of the user's own, becomes 0."""
        threshold = self.number(value)
        return self.xp.where(threshold < 0, self.xp.zeros(()), threshold)

    def is_idle(self, clipped: Array, joint: Array) -> bool:
        """Whether it is known here, without waiting, that no group is clipped and that all is finite."""
        return False

    def nonfinite(self, norms: Array, norm: Norm) -> tuple[Array, Array]:
        """Which of the arrays are not finite, by their norms, and how many."""
        bad = ~self.xp.isfinite(norms)
        return bad, self.xp.sum(self.xp.astype(bad, self.xp.int32))

    def everywhere(self, count: Array, smallest: Array) -> tuple[Array, Array]:
        """A count, and the smallest of some numbers, of all that is measured, from those of what is here.

        The arrays were changed before, and are measured anew.
        """
        return count, smallest

    def _settled(self, coefficients: Array) -> Array:
        """The same array, which many others are about to be computed from."""
        return coefficients

    def _combined(self, norms: Array, p: float) -> Array:
        return scaling.combine(self.xp, norms, p)

    # What is the same for all.

    def tensor_norms(self, p: float) -> Array:
        """The p-norm of each array, one vector."""
        if p not in self._tensors:
            known = self._units.get(p)
            self._tensors[p] = self._norms(p) if known is None else self._by_tensor(known, p)
        return self._tensors[p]

    def unit_norms(self, p: float) -> Array:
        """The p-norms of the units of all arrays, one vector."""
        if p not in self._units:
            self._units[p] = self._unit_norms(p)
        return self._units[p]

    def groups(self, per: Per, norm: Norm) -> Array:
        """The norms of the groups, one vector: of all units, or of each tensor."""
        p = order_of(norm)
        norms = self.unit_norms(p) if per == "unit" else self.tensor_norms(p)
        return self.finite_for_history(norms / self.layout.roots(per) if norm == "rms" else norms)

    def joint(self, norm: Norm) -> Array:
        """The norm of all arrays together, 0-d."""
        if norm not in self._joints:
            p = order_of(norm)
            joint = self._combined(self.tensor_norms(p), p)
            self._joints[norm] = joint / self.layout.root(norm) if norm == "rms" else joint
        return self._joints[norm]

    def finite_for_history(self, norms: Array) -> Array:
        """Norms as a threshold is told them: NaN, which enters no history, of arrays that are left alone."""
        if self.leave is None:
            return norms
        if self.leave is True:
            return norms + self.xp.nan
        return self.xp.where(self.leave, self.xp.nan, norms)

    def scale(self, coefficients: Array, per: Per = "global") -> None:
        """Multiply by one coefficient, or by one a tensor or unit."""
        coefficients = self._settled(coefficients)
        self._multiply(coefficients, per)
        self._joints = {}
        if per == "unit":
            self._units = {p: norms * coefficients for p, norms in self._units.items()}
            self._tensors = {}
        else:
            self._tensors = {p: norms * coefficients for p, norms in self._tensors.items()}
            self._units = {}

    def forget(self) -> None:
        """Measure anew: the arrays were changed."""
        self._tensors, self._units, self._joints = {}, {}, {}

    def join(self, parts: Sequence[Self], shares: tuple[Places, ...], norm: Norm) -> None:
        """Learn from parts, which together are everything, what was done to them.

        Args:
            parts: of this measure.
            shares: the places that each was made of.
            norm: which norm to learn.
        """
        p = order_of(norm)
        norms = self.xp.concat([part.tensor_norms(p) for part in parts if part.layout.present])
        self.forget()
        self._tensors[p] = self.xp.take(norms, self.layout.order(shares), axis=0)

    def _learn_part(self, whole: "Measure", index: Array) -> None:
        """Take over what is known of these arrays from the measure that they are a part of."""
        self.leave = whole.leave
        if self.layout.present:
            self._tensors = {p: self.xp.take(norms, index, axis=0) for p, norms in whole._tensors.items()}
