"""The forward pass watched: which function is given which parameter, beside which examples."""

import types
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.graph import get_gradient_edge
from torch.overrides import TorchFunctionMode

from clipwise.torch.per_example import layers
from clipwise.torch.per_example.uses import Arguments, Derived, Local, NotFollowed, Use, Weight

__all__ = ["Recorder"]

_MARK = "_clipwise_recording"
"""An attribute of each tensor that follows from the examples: the number of the recording, negative where it
also follows from a use that the backward pass comes to."""

_COPIES = {"expand", "expand_as", "repeat", "broadcast_to"}
_RANDOM = ("dropout", "rrelu", "gumbel", "bernoulli", "rand", "multinomial", "poisson", "normal_")
"""In the names of functions that give something else each time, so they cannot be looked at again."""

_recordings = 0


class Recorder(TorchFunctionMode):
    """Notes every use of some parameters while it is active, and asks for the gradient there.

    Functions are watched, not modules: a parameter that a module hands to `torch.nn.functional.linear` in any
    way is found, and one that is used otherwise does not go unnoticed.

    Args:
        parameters: by name.
        tensors: the examples.
        size: how many.

    Attributes:
        weights: the parameters, in their order.
        uses: with the place in the graph where each one's gradient comes back.
    """

    def __init__(self, parameters: dict[str, Tensor], tensors: Sequence[Tensor], size: int) -> None:
        super().__init__()
        global _recordings
        _recordings += 1
        self._mark = _recordings
        self.size = size
        self.weights = [Weight(tensor, name) for name, tensor in parameters.items()]
        self._by_id = {id(weight.tensor): weight for weight in self.weights}
        self._inputs = {id(tensor) for tensor in tensors}
        self._kept = list(tensors)
        self._time_first = False
        self.uses: list[tuple[Use, Any]] = []

    def __torch_function__(
        self, func: Any, kinds: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.multi_head_attention_forward:
            return self._attention(args, kwargs)
        weighed, follows, below = self._look((*args, *kwargs.values()) if kwargs else args)
        found = func(*args, **kwargs)
        if weighed and torch.is_grad_enabled():
            outputs = [found] if isinstance(found, Tensor) else found
            if isinstance(outputs, list | tuple):
                tensors = [one for one in outputs if isinstance(one, Tensor)]
                if any(one.requires_grad and id(one) not in self._by_id for one in tensors):
                    noted = self._note(func, args, kwargs, found, tensors, below)
                    follows, below = follows or noted, below or noted
        if follows:
            self._follow(found, below)
        return found

    def _look(self, values: Sequence[Any]) -> tuple[bool, bool, bool]:
        """Whether there is a weight among them, what follows from the examples, what from a use."""
        weighed = follows = below = False
        for one in values:
            if isinstance(one, Tensor):
                if id(one) in self._by_id:
                    weighed = True
                elif self._follows(one):
                    follows = True
                    below = below or (one.requires_grad and getattr(one, _MARK, 0) == -self._mark)
            elif isinstance(one, list | tuple) and one and not isinstance(one[0], int):
                inner = self._look(one)
                weighed, follows, below = weighed or inner[0], follows or inner[1], below or inner[2]
        return weighed, follows, below

    def _follows(self, tensor: Tensor) -> bool:
        """Whether a tensor depends on the examples, perhaps through a function that no mode sees."""
        if abs(getattr(tensor, _MARK, 0)) == self._mark or id(tensor) in self._inputs:
            return True
        return tensor.requires_grad and not tensor.is_leaf and id(tensor) not in self._by_id

    def _follow(self, found: Any, below: bool) -> None:
        if isinstance(found, Tensor):
            if id(found) not in self._by_id:
                setattr(found, _MARK, -self._mark if below else self._mark)
        elif isinstance(found, list | tuple):
            for one in found:
                self._follow(one, below)

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
        make = _KNOWN.get(func)
        use: Use | None = None
        if make is not None and isinstance(found, Tensor):
            use = make(self, found, *args, **kwargs)
        if use is None:
            use = self._other(func, args, kwargs, found, tensors)
        if use is None:
            return False
        assert isinstance(found, Tensor)
        if below and isinstance(use, layers.AffineUse):
            # The backward pass comes by on its way, and need not keep the gradient for later.
            found.register_hook(use.receive)
        else:  # the place in the graph: the tensor itself may be written into
            self.uses.append((use, get_gradient_edge(found)))
        return True

    def _other(
        self, func: Any, args: Sequence[Any], kwargs: dict[str, Any], found: Any, tensors: list[Tensor]
    ) -> Use | None:
        """A use in any function, or None: what it gave is made of weights alone."""
        name = getattr(func, "__name__", str(func))
        if name == "__get__":  # a property, such as the transpose
            name = getattr(getattr(func, "__self__", None), "__name__", name)
        named = [v for v in kwargs.values() if isinstance(v, Tensor)]
        if any(word in name for word in _RANDOM):
            raise NotFollowed(f"{self._first(args, kwargs)!r} meets random numbers in {name}")
        if any(found is one for one in args):
            raise NotFollowed(f"{self._first(args, kwargs)!r} is used in place, by {name}")
        if any(id(v) in self._by_id or self._follows(v) for v in named):
            # Positions tell arguments apart here; a tensor that is named is put into a function of its own.
            keys = [key for key, value in kwargs.items() if isinstance(value, Tensor)]
            func, args, kwargs = _with_named(func, keys, len(args), kwargs, args)
        arguments = Arguments(args, kwargs, self._by_id, self._follows)
        batched = arguments.tensors()
        if not batched:
            if name in _COPIES and tensors[0].ndim and len(tensors[0]) == self.size > 1:
                return Local(func, arguments, self.size, 1, tensors[0])
            outputs = [Weight(tensor, f"{name} of {arguments.weights[0].name}") for tensor in tensors]
            self._by_id |= {id(weight.tensor): weight for weight in outputs}
            Derived(func, arguments, outputs)
            return None
        first = {len(tensor) if tensor.ndim else 0 for tensor in (*batched, *tensors)}
        rows = next(iter(first)) // self.size
        if not isinstance(found, Tensor) or len(first) != 1 or not rows or first != {rows * self.size}:
            raise NotFollowed(
                f"{arguments.weights[0].name!r} is used in {name}, whose arguments and result do not all have"
                " the examples along axis 0"
            )
        return Local(func, arguments, self.size, rows, found)

    def _attention(self, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """torch's own attention, with this mode inside of it: there time comes before the examples."""
        query = args[0] if args else kwargs.get("query")
        before, self._time_first = self._time_first, isinstance(query, Tensor) and query.ndim == 3
        try:
            with self:
                return _OPENED(*args, **kwargs)
        finally:
            self._time_first = before

    # The functions that are known. Each is given what the function gave, and its arguments.

    def _linear(self, found: Tensor, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Use | None:
        return self._matrix(input, weight, bias, transposed=False)

    def _addmm(
        self, found: Tensor, input: Tensor, mat1: Tensor, mat2: Tensor, *, beta: float = 1, alpha: float = 1
    ) -> Use | None:
        if beta != 1 or alpha != 1 or id(mat2) not in self._by_id or input.ndim != 1:
            return None
        return self._matrix(mat1, mat2, input, transposed=True)

    def _matrix(self, x: Tensor, weight: Tensor, bias: Tensor | None, *, transposed: bool) -> Use | None:
        if id(x) in self._by_id or not self._follows(x) or weight.ndim != 2 or x.ndim < 2:
            return None
        time_first = self._time_first
        if time_first:
            fits = (x.ndim == 3 and x.shape[1] == self.size) or (x.ndim == 2 and not len(x) % self.size)
        else:
            # Rows of several positions are taken for those of one example after the other.
            fits = len(x) > 0 and not len(x) % self.size
        if not fits:
            raise NotFollowed(
                f"{self._name(weight, bias)!r} meets a tensor of shape {tuple(x.shape)}, which does not have"
                f" the {self.size} examples along axis 0"
            )
        weights, roles = self._roles(weight, bias)
        return layers.LinearUse(weights, roles, self.size, x, transposed=transposed, time_first=time_first)

    def _embedding(
        self,
        found: Tensor,
        input: Tensor,
        weight: Tensor,
        padding_idx: int | None = None,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        sparse: bool = False,
    ) -> Use | None:
        if max_norm is not None or scale_grad_by_freq:
            raise NotFollowed(f"{self._name(weight)!r} has max_norm or scale_grad_by_freq")
        if not self._follows(input) and not (input.ndim > 1 and len(input) == self.size > 1):
            return None  # the positions of all examples, say
        if not input.ndim or len(input) != self.size or id(weight) not in self._by_id:
            raise NotFollowed(f"{self._name(weight)!r} meets indices without the examples along axis 0")
        return layers.EmbeddingUse(self._by_id[id(weight)], self.size, input, padding_idx)

    def _conv(
        self,
        found: Tensor,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> Use | None:
        axes = weight.ndim - 2
        if not self._follows(input) or input.ndim != weight.ndim or len(input) != self.size:
            return None
        stride, dilation = _each(stride, axes), _each(dilation, axes)
        if padding == "valid":
            padding = 0
        if padding == "same":
            total = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
            if any(one % 2 for one in total):
                return None
            padding = [one // 2 for one in total]
        weights, roles = self._roles(weight, bias)
        return layers.ConvUse(
            weights,
            roles,
            self.size,
            input,
            weight,
            stride=stride,
            padding=_each(padding, axes),
            dilation=dilation,
            groups=groups,
        )

    def _layer_norm(
        self,
        found: Tensor,
        input: Tensor,
        normalized_shape: Sequence[int],
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        eps: float = 1e-5,
    ) -> Use | None:
        def normal(x: Tensor) -> Tensor:
            return F.layer_norm(x, normalized_shape, None, None, eps)

        return self._affine(input, weight, bias, normal, range(1, input.ndim - len(normalized_shape)))

    def _rms_norm(
        self,
        found: Tensor,
        input: Tensor,
        normalized_shape: Sequence[int],
        weight: Tensor | None = None,
        eps: float | None = None,
    ) -> Use | None:
        def normal(x: Tensor) -> Tensor:
            return F.rms_norm(x, list(normalized_shape), None, eps)

        return self._affine(input, weight, None, normal, range(1, input.ndim - len(normalized_shape)))

    def _group_norm(
        self,
        found: Tensor,
        input: Tensor,
        num_groups: int,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        eps: float = 1e-5,
    ) -> Use | None:
        def normal(x: Tensor) -> Tensor:
            return F.group_norm(x, num_groups, None, None, eps)

        return self._affine(input, weight, bias, normal, range(2, input.ndim))

    def _affine(
        self, x: Tensor, weight: Tensor | None, bias: Tensor | None, normal: Any, middle: Sequence[int]
    ) -> Use | None:
        if self._time_first or not self._follows(x) or len(x) != self.size:
            return None
        weights, roles = self._roles(weight, bias)
        return layers.AffineUse(weights, roles, self.size, x, normal, middle)

    def _roles(self, weight: Tensor | None, bias: Tensor | None) -> tuple[list[Weight], list[str]]:
        pairs = [(weight, "weight"), (bias, "bias")]
        there = [(self._by_id[id(one)], role) for one, role in pairs if id(one) in self._by_id]
        return [weight for weight, _ in there], [role for _, role in there]

    def _first(self, args: Sequence[Any], kwargs: dict[str, Any]) -> str:
        """The name of the first weight of a call."""
        weights = Arguments([*args, *kwargs.values()], {}, self._by_id, self._follows).weights
        return weights[0].name

    def _name(self, *tensors: Tensor | None) -> str:
        return next(self._by_id[id(one)].name for one in tensors if id(one) in self._by_id)


def _each(value: Any, axes: int) -> list[int]:
    return [value] * axes if isinstance(value, int) else [*value] * (axes if len(value) == 1 else 1)


def _with_named(
    func: Any, keys: list[str], count: int, kwargs: dict[str, Any], args: Sequence[Any]
) -> tuple[Callable[..., Any], list[Any], dict[str, Any]]:
    """The same call with some of the named arguments as the last positional ones."""

    def called(*values: Any, **rest: Any) -> Any:
        return func(*values[:count], **dict(zip(keys, values[count:], strict=True)), **rest)

    called.__name__ = getattr(func, "__name__", str(func))
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

_KNOWN: dict[Any, Callable[..., Use | None]] = {
    F.linear: Recorder._linear,
    torch.addmm: Recorder._addmm,
    F.embedding: Recorder._embedding,
    torch.conv1d: Recorder._conv,
    torch.conv2d: Recorder._conv,
    F.layer_norm: Recorder._layer_norm,
    F.rms_norm: Recorder._rms_norm,
    F.group_norm: Recorder._group_norm,
}
