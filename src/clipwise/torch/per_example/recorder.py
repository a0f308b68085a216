"""The forward pass watched: which function is given which parameter, beside which examples."""

import types
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.graph import get_gradient_edge
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from clipwise.torch.per_example.affine import AffineUse
from clipwise.torch.per_example.elsewhere import Arguments, Derived, Local, name_of
from clipwise.torch.per_example.known import KNOWN
from clipwise.torch.per_example.recurrent import RECURRENT
from clipwise.torch.per_example.seen import Seen
from clipwise.torch.per_example.uses import NotFollowed, Use, Weight
from clipwise.torch.per_example.verified import Verified

__all__ = ["Recorder"]

_COPIES = {"expand", "expand_as", "repeat", "broadcast_to"}
_RANDOM = ("dropout", "rrelu", "gumbel", "bernoulli", "rand", "multinomial", "poisson", "normal_")
"""In the names of functions that give something else each time, so they cannot be looked at again."""


class Recorder(TorchFunctionMode):
    """Records every use of some parameters while it is active, and requests the gradient there.

    It watches functions, not modules, so it finds every parameter that reaches
    `torch.nn.functional.linear` in any way, and notices every other use.

    Args:
        parameters: the parameters by name.
        tensors: the tensors with examples.
        size: number of examples.
        verified: what two examples showed.

    Attributes:
        weights: the parameters, in the given order.
        seen: the tensors of the forward pass so far.
        uses: the uses, each with the edge of the graph at which its gradient arrives.
    """

    def __init__(
        self, parameters: dict[str, Tensor], tensors: Sequence[Tensor], size: int, verified: Verified
    ) -> None:
        super().__init__()
        self.size = size
        self.weights = [Weight(tensor, name) for name, tensor in parameters.items()]
        self.seen = Seen(self.weights, tensors, size, verified)
        self.uses: list[tuple[Use, Any]] = []

    def __torch_function__(
        self, func: Any, kinds: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.multi_head_attention_forward:
            return self._attention(args, kwargs)
        weighed, follows, below = self.seen.look((*args, *kwargs.values()) if kwargs else args)
        if weighed and func in RECURRENT and torch.is_grad_enabled():
            return RECURRENT[func](self, *args, **kwargs)
        found = func(*args, **kwargs)
        if weighed and torch.is_grad_enabled():
            if func is Tensor.__setitem__:  # which gives nothing that could be noted
                raise _in_place(self._first(args, kwargs), func)
            outputs = [found] if isinstance(found, Tensor) else found
            if isinstance(outputs, list | tuple):
                tensors = [one for one in outputs if isinstance(one, Tensor)]
                if any(one.grad_fn is not None and id(one) in self.seen.by_id for one in tensors):
                    self._refuse_writing(func, args, kwargs)
                if any(one.requires_grad and id(one) not in self.seen.by_id for one in tensors):
                    noted = self._note(func, args, kwargs, found, tensors, below)
                    follows, below = follows or noted, below or noted
        if follows:
            self.seen.mark(found, below)
        return found

    def every_use(self) -> set[Use]:
        """Also of those that the backward pass comes by on its way."""
        return {use for weight in self.seen.by_id.values() for use, _ in weight.uses}

    def _note(
        self,
        func: Any,
        args: Sequence[Any],
        kwargs: dict[str, Any],
        found: Any,
        tensors: list[Tensor],
        below: bool,
    ) -> bool:
        """A use of a weight; whether what it gave has examples."""
        make = KNOWN.get(func)
        use: Use | None = None
        if make is not None and isinstance(found, Tensor):
            use = make(self.seen, found, *args, **kwargs)
        if use is None:
            use = self._other(func, args, kwargs, found, tensors)
        if use is None:
            return False
        assert isinstance(found, Tensor)
        if below and isinstance(use, AffineUse):
            # The backward pass comes by on its way, and need not keep the gradient for later.
            found.register_hook(use.receive)
        else:  # the place in the graph: the tensor itself may be written into
            self.uses.append((use, get_gradient_edge(found)))
        return True

    def _other(
        self, func: Any, args: Sequence[Any], kwargs: dict[str, Any], found: Any, tensors: list[Tensor]
    ) -> Use | None:
        """A use in any function, or None: what it gave is made of weights alone."""
        name = name_of(func)
        if any(word in name for word in _RANDOM):
            raise NotFollowed(f"{self._first(args, kwargs)!r} is combined with random numbers in {name}")
        if any(found is one for one in args):
            raise _in_place(self._first(args, kwargs), func)
        keys = [key for key, value in kwargs.items() if self._met(value)]
        if keys:
            # Positions tell arguments apart here; tensors that are named are put into a function of its own.
            func, args, kwargs = _with_named(func, keys, len(args), kwargs, args)
        arguments = Arguments(args, kwargs, self.seen.by_id, self.seen.follows)
        batched = arguments.tensors()
        if len(batched) + len(arguments.weights) < len(self._met((args, kwargs))):
            raise NotFollowed(f"{self._first(args, kwargs)!r} is deep within an argument of {name}")
        if not batched:
            use = (name, *(weight.name for weight in arguments.weights))
            if (
                name in _COPIES
                and tensors[0].ndim
                and self.seen.verified.has_examples(use, len(tensors[0]), self.size)
            ):
                return Local(func, arguments, self.size, 1, tensors[0])
            outputs = [Weight(tensor, f"{name} of {arguments.weights[0].name}") for tensor in tensors]
            self.seen.by_id |= {id(weight.tensor): weight for weight in outputs}
            Derived(func, arguments, outputs)
            return None
        first = {len(tensor) if tensor.ndim else 0 for tensor in (*batched, *tensors)}
        rows = next(iter(first)) // self.size
        if not isinstance(found, Tensor) or len(first) != 1 or not rows or first != {rows * self.size}:
            raise NotFollowed(
                f"{arguments.weights[0].name!r} is used in {name}, whose arguments and result do not all have"
                " the examples along axis 0"
            )
        self.seen.verified.rows(arguments.weights[0].name, rows, self.size)
        return Local(func, arguments, self.size, rows, found)

    def _attention(self, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """torch's own attention, with this mode inside of it: there time comes before the examples."""
        query = args[0] if args else kwargs.get("query")
        before, self.seen.time_first = self.seen.time_first, isinstance(query, Tensor) and query.ndim == 3
        try:
            with self:
                return _OPENED(*args, **kwargs)
        finally:
            self.seen.time_first = before

    def _refuse_writing(self, func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
        """NotFollowed if what was made of weights alone is written into; `contiguous` may give it, too."""
        name = name_of(func)
        if name.endswith("_") and (name.startswith("__i") or not name.endswith("__")):
            raise _in_place(self._first(args, kwargs), func)

    def _first(self, args: Sequence[Any], kwargs: dict[str, Any]) -> str:
        """The name of the first weight of a call."""
        return self.seen.name_of(*pytree.tree_leaves((args, kwargs)))

    def _met(self, tree: Any) -> list[Tensor]:
        """The weights and the tensors with examples, however deep."""
        leaves = [one for one in pytree.tree_leaves(tree) if isinstance(one, Tensor)]
        return [one for one in leaves if id(one) in self.seen.by_id or self.seen.follows(one)]


def _in_place(weight: str, func: Any) -> NotFollowed:
    return NotFollowed(f"{weight!r} is used in the in-place operation {name_of(func)}")


def _with_named(
    func: Any, keys: list[str], count: int, kwargs: dict[str, Any], args: Sequence[Any]
) -> tuple[Callable[..., Any], list[Any], dict[str, Any]]:
    """The same call with some of the named arguments as the last positional ones."""

    def called(*values: Any, **rest: Any) -> Any:
        return func(*values[:count], **dict(zip(keys, values[count:], strict=True)), **rest)

    called.__name__ = name_of(func)
    rest = {key: value for key, value in kwargs.items() if key not in keys}
    return called, [*args, *(kwargs[key] for key in keys)], rest


def _opened(function: Any) -> Any:
    """A function of torch.nn.functional that does not hand itself to a mode, which then sees its calls."""
    inside = {**function.__globals__, "has_torch_function": lambda *_: False}
    copy = types.FunctionType(
        function.__code__, inside, function.__name__, function.__defaults__, function.__closure__
    )
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy


_OPENED = _opened(F.multi_head_attention_forward)
