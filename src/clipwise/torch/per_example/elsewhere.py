"""Functions that are not known: what they do with a weight is differentiated again, there alone."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.func import vjp, vmap

from clipwise.torch.per_example.rows import unchanged
from clipwise.torch.per_example.uses import NotFollowed, Use, Weight

__all__ = ["Arguments", "Derived", "Local", "name_of"]


_REARRANGE = (
    {"T", "mT", "t", "transpose", "swapaxes", "permute", "movedim"}
    | {"view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "contiguous", "clone"}
    | {"split", "chunk", "tensor_split", "unbind"}
)
"""The names of functions whose results have each entry of a tensor once."""


def name_of(function: Callable[..., Any]) -> str:
    """What a function is called; of a property, such as the transpose, what that is called."""
    name = getattr(function, "__name__", str(function))
    return getattr(getattr(function, "__self__", None), "__name__", name) if name == "__get__" else name


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

        # What was made under inference mode counts no versions.
        self._versions = [(one, one._version) for one in self.tensors() if not one.is_inference()]

    def check(self) -> None:
        """RuntimeError if a tensor with examples was written into since."""
        for tensor, version in self._versions:
            unchanged(tensor, version)

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
        self.name = name_of(function)
        self.rearranges = self.name in _REARRANGE
        self.arguments = arguments
        self.outputs = outputs
        for place, weight in enumerate(arguments.weights):
            weight.makes.append((self, place))

    @property
    def reached(self) -> bool:
        return any(weight.reached for weight in self.outputs)

    @property
    def exceeds(self) -> bool:
        return any(
            any(weight.size > use.entries for use, _ in weight.uses if use.reached)
            or any(part.exceeds for part, _ in weight.makes)
            for weight in self.outputs
        )

    def cost(self) -> int:
        return sum(weight.cost() for weight in self.outputs)

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


class Local(Use):
    """Any function: what it gave is made again of one example's part, and differentiated by the weight.

    Where no argument has examples, each of the output's is a copy (`expand`).
    """

    def __init__(
        self, function: Callable[..., Any], arguments: Arguments, size: int, rows: int, output: Tensor
    ) -> None:
        super().__init__(arguments.weights, size)
        self.function = function
        self.without_formula = name_of(function)
        self.arguments = arguments
        self.rows = rows  # of each example along axis 0
        self._cost = output.numel() // max(1, size)

    def cost(self, role: int) -> int:
        return super().cost(role) + self._cost

    def replace(self, places: Tensor) -> None:
        def replaced(tensor: Tensor) -> Tensor:
            each: Tensor = tensor.unflatten(0, (self.size, self.rows))
            return each[places].flatten(0, 1)

        self._gradient = replaced(self.gradient)
        own, tensors = self.arguments, [replaced(one) for one in self.arguments.tensors()]
        own.args = own.of_example(own.args, tensors)

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

        def compute() -> Tensor:
            self.arguments.check()
            return vmap(back)(own, *parts)

        return _followed(compute, self.function)

    def total(self, role: int, factors: Tensor) -> Tensor:

        def forward(weight: Tensor) -> Tensor:
            found: Tensor = self.function(*self.arguments.args_with(role, weight), **self.arguments.kwargs)
            return found

        own = self.gradient.unflatten(0, (self.size, self.rows))
        factors = factors.to(own.dtype).view(-1, *[1] * (own.ndim - 1))
        pull = vjp(forward, self.weights[role].tensor.detach())[1]
        (total,) = pull((own * factors).flatten(0, 1))
        return total  # type: ignore[no-any-return]


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
        first = str(error).partition("\n")[0]
        raise NotFollowed(f"{name_of(function)} cannot be computed for single examples ({first})") from error
