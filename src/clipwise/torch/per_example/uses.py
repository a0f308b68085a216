"""Where a parameter is used in the forward pass, and what follows for the gradient of each example."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.func import vjp, vmap

from clipwise.errors import ClipwiseError
from clipwise.torch.per_example.rows import squared
from clipwise.torch.per_example.ties import Factors, pairs_of

__all__ = ["Derived", "Local", "NotFollowed", "Use", "Weight"]

ENTRIES = {"cpu": 1 << 18}
"""Entries that the norms of a layer may take at a time beside what is there, or those of one example."""


class NotFollowed(ClipwiseError):
    """A parameter is used in a way that leaves no gradient of each example to be found."""


class Use(ABC):
    """One call of a function with some weights; ``role`` is the place of a weight among them.

    Attributes:
        weights: those that are tracked.
        size: how many examples there are.
        reached: whether the losses depend on what the function gave.
    """

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
        self.reached = True
        self._gradient = gradient

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


class Weight:
    """A parameter, or a tensor that was made of parameters alone.

    Attributes:
        name: for messages.
        uses: calls in which it meets examples, with its role in each.
        makes: what was made of it, with its place among the tensors that it was made of.
    """

    def __init__(self, tensor: Tensor, name: str) -> None:
        self.tensor = tensor  # kept, so that no other tensor gets its id
        self.name = name
        self.size = tensor.numel()
        self.uses: list[tuple[Use, int]] = []
        self.makes: list[tuple[Derived, int]] = []

    @property
    def reached(self) -> bool:
        """Whether the losses depend on it."""
        return any(use.reached for use, _ in self.uses) or any(one.reached for one, _ in self.makes)

    def squares(self, size: int) -> Tensor:
        """The square of the norm of each example's gradient."""
        uses = [(use, role) for use, role in self.uses if use.reached]
        if len(uses) == 1 and not any(one.reached for one, _ in self.makes):
            use, role = uses[0]
            return use.squares(role)
        crossed = None if any(one.reached for one, _ in self.makes) else self._crossed(uses)
        if crossed is not None:
            return crossed
        # Used more than once (tied): the norm of a sum takes the sum itself.
        cost = self.size + sum(use.cost(role) for use, role in uses)
        return _squares(self.examples, size, cost, self.tensor.device)

    def _crossed(self, uses: "Sequence[tuple[Use, int]]") -> Tensor | None:
        """The squares by those of each use and the products of all pairs; None where that takes more."""
        shapes = [use.factors(role, slice(0, 1)) for use, role in uses]
        parts = [one for one in shapes if one is not None]
        positions = sum(one.columns.shape[1] for one in parts)
        if len(parts) < len(uses) or positions**2 >= self.size:
            return None
        size = uses[0][0].size
        squares = _sum([use.squares(role) for use, role in uses])
        products = torch.cat(
            [
                pairs_of([one for use, role in uses if (one := use.factors(role, some))])
                for some in chunks(size, 2 * positions**2, self.tensor.device)
            ]
        )
        return (squares + products).clamp_(min=0)

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


class Derived:
    """Tensors made of weights alone: their transpose, a slice, a product of two. Gradients go through it.

    Args:
        function: of ``args`` and ``kwargs``, without a mode.
        places: where among the flattened arguments the weights are.
        outputs: what it gave, as weights.
    """

    def __init__(
        self, function: Callable[..., Any], arguments: "Arguments", outputs: "Sequence[Weight]"
    ) -> None:
        self.function = function
        self.arguments = arguments
        self.outputs = outputs
        for place, weight in enumerate(arguments.weights):
            weight.makes.append((self, place))

    @property
    def reached(self) -> bool:
        return any(weight.reached for weight in self.outputs)

    def examples(self, place: int, some: slice) -> Tensor:
        count = some.stop - some.start
        given = [
            weight.examples(some)
            if weight.reached
            else weight.tensor.new_zeros((count, *weight.tensor.shape))
            for weight in self.outputs
        ]
        return _followed(lambda: vmap(self._back(place))(*given), self.function)

    def total(self, place: int, factors: Tensor) -> Tensor:
        given = [
            weight.total(factors).to(weight.tensor.dtype)
            if weight.reached
            else torch.zeros_like(weight.tensor)
            for weight in self.outputs
        ]
        return self._back(place)(*given)

    def _back(self, place: int) -> Callable[..., Tensor]:
        def made(weight: Tensor) -> tuple[Tensor, ...]:
            found = self.function(*self.arguments.args_with(place, weight), **self.arguments.kwargs)
            return (found,) if isinstance(found, Tensor) else tuple(found)

        back = vjp(made, self.arguments.weights[place].tensor.detach())[1]

        def pulled(*cotangents: Tensor) -> Tensor:
            pairs = zip(cotangents, self.outputs, strict=True)
            (found,) = back(tuple(c.to(weight.tensor.dtype) for c, weight in pairs))
            return found  # type: ignore[no-any-return]

        return pulled


class Arguments:
    """What a function was called with, the weights and the tensors with examples apart.

    Args:
        args, kwargs: the call's.
        weights: by the id of their tensor.
        follows: whether a tensor has the examples along axis 0.
        size: how many examples there are.
    """

    def __init__(
        self,
        args: Sequence[Any],
        kwargs: dict[str, Any],
        weights: dict[int, Weight],
        follows: Callable[[Tensor], bool],
    ) -> None:
        self.args = [_detached(one, weights) for one in args]
        self.kwargs = kwargs
        self.weights: list[Weight] = []
        self._weight_places: list[tuple[int, int | None]] = []
        self.batched: list[tuple[int, int | None]] = []
        for i, one in enumerate(args):
            inner: Sequence[tuple[int | None, Any]] = (
                list(enumerate(one)) if isinstance(one, list | tuple) else [(None, one)]
            )
            for j, tensor in inner:
                if id(tensor) in weights:
                    self._weight_places.append((i, j))
                    self.weights.append(weights[id(tensor)])
                elif isinstance(tensor, Tensor) and follows(tensor):
                    self.batched.append((i, j))

    def args_with(self, place: int, weight: Tensor) -> list[Any]:
        """The positional arguments with another tensor as one of the weights."""
        return self._with(self.args, self._weight_places[place], weight)

    def of_example(self, args: list[Any], tensors: Sequence[Tensor]) -> list[Any]:
        """Positional arguments with the part of one example in place of each tensor with examples."""
        for where, tensor in zip(self.batched, tensors, strict=True):
            args = self._with(args, where, tensor)
        return args

    def tensors(self) -> list[Tensor]:
        """Those with examples."""
        return [self.args[i] if j is None else self.args[i][j] for i, j in self.batched]

    @staticmethod
    def _with(args: list[Any], where: tuple[int, int | None], value: Any) -> list[Any]:
        found = list(args)
        i, j = where
        if j is None:
            found[i] = value
        else:
            inner = list(found[i])
            inner[j] = value
            found[i] = type(args[i])(inner)
        return found


class Local(Use):
    """Any function: what it gave is made again of one example's part, and differentiated by the weight.

    Where no argument has examples, each of the output's is a copy (`expand`).
    """

    def __init__(
        self, function: Callable[..., Any], arguments: Arguments, size: int, rows: int, output: Tensor
    ) -> None:
        super().__init__(arguments.weights, size)
        self.function = function
        self.arguments = arguments
        self.rows = rows  # of each example along axis 0
        self._cost = output.numel() // max(1, size)

    def cost(self, role: int) -> int:
        return super().cost(role) + self._cost

    def examples(self, role: int, some: slice) -> Tensor:
        weight = self.weights[role].tensor.detach()
        own = self.gradient[some.start * self.rows : some.stop * self.rows]
        own = own.unflatten(0, (-1, self.rows))
        parts = [
            tensor.detach()[some.start * self.rows : some.stop * self.rows].unflatten(0, (-1, self.rows))
            for tensor in self.arguments.tensors()
        ]

        def back(gradient: Tensor, *parts: Tensor) -> Tensor:
            def forward(weight: Tensor) -> Tensor:
                args = self.arguments.of_example(self.arguments.args_with(role, weight), parts)
                found: Tensor = self.function(*args, **self.arguments.kwargs)
                return found if parts else found[:1]

            pull = vjp(forward, weight)[1]
            return pull(gradient)[0]  # type: ignore[no-any-return]

        return _followed(lambda: vmap(back)(own, *parts), self.function)

    def total(self, role: int, factors: Tensor) -> Tensor:

        def forward(weight: Tensor) -> Tensor:
            found: Tensor = self.function(*self.arguments.args_with(role, weight), **self.arguments.kwargs)
            return found

        own = self.gradient.unflatten(0, (self.size, self.rows))
        factors = factors.to(own.dtype).view(-1, *[1] * (own.ndim - 1))
        pull = vjp(forward, self.weights[role].tensor.detach())[1]
        (total,) = pull((own * factors).flatten(0, 1))
        return total  # type: ignore[no-any-return]


def chunks(size: int, cost: int, device: torch.device) -> Iterator[slice]:
    """Examples at a time, so many that `ENTRIES` suffice; a kernel of a device is given more."""
    step = max(1, ENTRIES.get(device.type, 1 << 24) // max(1, cost))
    for start in range(0, size, step):
        yield slice(start, min(size, start + step))


def _squares(examples: Callable[[slice], Tensor], size: int, cost: int, device: torch.device) -> Tensor:
    return torch.cat([squared(examples(some)) for some in chunks(size, cost, device)])


def _sum(terms: Sequence[Tensor]) -> Tensor:
    found = terms[0]
    for term in terms[1:]:
        found = found + term
    return found


def _detached(value: Any, weights: dict[int, Weight]) -> Any:
    """Without the graph, which a later pass must not keep alive."""
    if isinstance(value, Tensor):
        return value.detach()
    if isinstance(value, list | tuple) and any(isinstance(one, Tensor) for one in value):
        return type(value)([one.detach() if isinstance(one, Tensor) else one for one in value])
    return value


def _followed(compute: Callable[[], Tensor], function: Callable[..., Any]) -> Tensor:
    try:
        return compute()
    except RuntimeError as error:
        name = getattr(function, "__name__", str(function))
        first = str(error).partition("\n")[0]
        raise NotFollowed(f"{name} cannot be taken apart by example ({first})") from error
