"""Where a parameter is used in the forward pass, and what follows for the gradient of each example."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from clipwise.errors import ClipwiseError
from clipwise.torch.per_example.rows import chunks, squared
from clipwise.torch.per_example.ties import Factors, joined, product_squares, summed_squares

__all__ = ["NotFollowed", "Part", "Use", "Weight"]


class NotFollowed(ClipwiseError):
    """A parameter is used in a way for which per-example gradients cannot be computed."""


class Use(ABC):
    """One call of a function with some weights; ``role`` is the place of a weight among them.

    Attributes:
        weights: those that are tracked.
        size: how many examples there are.
        reached: whether the losses depend on what the function gave.
        entries: of one example in what it gave, once the backward pass has come by.
        without_formula: the name of a function whose gradients are made, and not only their norms.
    """

    entries = 0
    without_formula: str | None = None

    def __init__(self, weights: "Sequence[Weight]", size: int) -> None:
        self.weights = weights
        self.size = size
        self.reached = False
        self._gradient: Tensor | None = None
        self._done = 0
        for role, weight in enumerate(weights):
            weight.uses.append((self, role))

    @property
    def gradient(self) -> Tensor:
        """Of the losses, by what the function gave."""
        assert self._gradient is not None
        return self._gradient

    def receive(self, gradient: Tensor) -> None:
        """Take what the backward pass brought."""
        self.reached, self.entries = True, gradient.numel() // max(1, self.size)
        self._gradient = gradient

    def replace(self, places: Tensor) -> None:
        """Put other examples in the place of some, such as finite ones where the factor will be 0."""
        self._gradient = self.gradient[places]

    def finish(self) -> None:
        """One of its weights has its total; after the last nothing is kept."""
        self._done += 1
        if self._done == len(self.weights):
            self.release()

    def release(self) -> None:
        """Forget what came in and what came back."""
        self._gradient = None

    @abstractmethod
    def examples(self, role: int, some: slice) -> Tensor:
        """The gradients of some examples by a weight, ``(examples, *shape)``."""

    @abstractmethod
    def total(self, role: int, factors: Tensor) -> Tensor:
        """The sum of the gradients of all examples by a weight, each with a factor."""

    def factors(self, role: int, some: slice) -> Factors | None:
        """The gradients of some examples by a weight as a product; None: they are not known as one."""
        return None

    def squares(self, role: int) -> Tensor:
        """The square of the norm of each example's gradient by a weight, in the wide float."""
        return _squares(
            lambda some: self.examples(role, some), self.size, self.cost(role), self.gradient.device
        )

    def cost(self, role: int) -> int:
        """How many entries `examples` of one example need."""
        return self.weights[role].size


class Part(Protocol):
    """What was made of weights alone, with gradients that go on to each of them, by its place."""

    name: str
    """Of the function that made it."""
    outputs: "Sequence[Weight]"
    rearranges: bool
    """Whether each entry of a weight is in the outputs once."""

    @property
    def reached(self) -> bool:
        """Whether the losses depend on it."""

    @property
    def exceeds(self) -> bool:
        """Whether it is larger than what is made of it and of one example."""

    def cost(self) -> int:
        """How many entries `examples` of one example need."""

    def examples(self, place: int, some: slice) -> Tensor:
        """The gradients of some examples by a weight, ``(examples, *shape)``."""

    def total(self, place: int, factors: Tensor) -> Tensor:
        """The sum of the gradients of all examples by a weight, each with a factor."""


class Weight:
    """A parameter, or a tensor that was made of parameters alone.

    Attributes:
        name: for messages.
        uses: calls in which it meets examples, with its role in each.
        makes: what was made of it, with its place among the tensors that it was made of.
        costly: why `squares` made gradients of single examples that are larger than what a layer gives.
    """

    def __init__(self, tensor: Tensor, name: str) -> None:
        self.tensor = tensor  # kept, so that no other tensor gets its id
        self.name = name
        self.size = tensor.numel()
        self.uses: list[tuple[Use, int]] = []
        self.makes: list[tuple[Part, int]] = []
        self.costly: str | None = None

    @property
    def reached(self) -> bool:
        """Whether the losses depend on it."""
        return any(use.reached for use, _ in self.uses) or any(one.reached for one, _ in self.makes)

    def squares(self, size: int) -> Tensor:
        """The square of the norm of each example's gradient."""
        uses = [(use, role) for use, role in self.uses if use.reached]
        makes = [part for part, _ in self.makes if part.reached]
        if len(uses) == 1 and not makes:
            use, role = uses[0]
            if use.without_formula is not None and self.size > use.entries:
                self.costly = f"{self.name!r} is used in {use.without_formula}, which has no norm formula"
            return use.squares(role)
        if not uses and len(makes) == 1 and makes[0].rearranges:
            return _sum([one.squares(size) for one in makes[0].outputs if one.reached])
        crossed = None if makes else self._crossed(uses)
        if crossed is not None:
            return crossed
        # The norm of a sum takes the sum itself.
        if any(part.exceeds for part in makes):
            self.costly = f"{self.name!r} passes through {makes[0].name} before it is applied to the examples"
        elif not makes and self.size > max(use.entries for use, _ in uses):
            self.costly = f"{self.name!r} is used {len(uses)} times"
        return _squares(self.examples, size, self.cost(), self.tensor.device)

    def cost(self) -> int:
        """How many entries `examples` of one example need."""
        uses = sum(use.cost(role) for use, role in self.uses)
        return self.size + uses + sum(part.cost() for part, _ in self.makes)

    def _crossed(self, uses: "Sequence[tuple[Use, int]]") -> Tensor | None:
        """The squares by the products of all pairs of positions; None where that is not known, or more."""
        shapes = [use.factors(role, slice(0, 1)) for use, role in uses]
        parts = [one for one in shapes if one is not None]
        if len(parts) < len(uses):
            return None
        size, device = uses[0][0].size, self.tensor.device
        positions = sum(one.columns.shape[1] for one in parts)
        outs, ins = self.tensor.shape

        def factors(some: slice) -> list[Factors]:
            return joined([one for use, role in uses if (one := use.factors(role, some))])

        def two(some: slice) -> tuple[Tensor, Tensor]:
            (one,) = factors(some)
            return one.columns[:, None], one.rows[:, None]

        if all(one.rows.ndim == 3 for one in parts):
            return product_squares(
                two,
                size,
                device,
                positions=positions,
                ins=ins,
                outs=outs,
                apart=positions * (ins + outs),
            )
        if positions**2 >= self.size:
            return None
        cost = positions * (2 * positions + ins + outs)
        return torch.cat([summed_squares(factors(some)) for some in chunks(size, cost, device)])

    def examples(self, some: slice) -> Tensor:
        """The gradients of some examples, ``(examples, *shape)``."""
        return _sum(
            [
                *(use.examples(role, some) for use, role in self.uses if use.reached),
                *(one.examples(place, some) for one, place in self.makes if one.reached),
            ]
        )

    def total(self, factors: Tensor) -> Tensor:
        """The sum of the gradients of all examples, each with a factor."""
        return _sum(
            [
                *(use.total(role, factors) for use, role in self.uses if use.reached),
                *(one.total(place, factors) for one, place in self.makes if one.reached),
            ]
        )

    def finish(self) -> None:
        """Its total is there."""
        for use, _ in self.uses:
            use.finish()


def _squares(examples: Callable[[slice], Tensor], size: int, cost: int, device: torch.device) -> Tensor:
    return torch.cat([squared(examples(some)) for some in chunks(size, cost, device)])


def _sum(terms: Sequence[Tensor]) -> Tensor:
    found = terms[0]
    for term in terms[1:]:
        found = found + term
    return found
