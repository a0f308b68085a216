"""Parameters with their names: which are clipped, each of them once."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from clipwise.errors import ParameterError

Parameters: TypeAlias = Tensor | nn.Module | Iterable[Tensor] | Iterable[tuple[str, Tensor]]


def named(parameters: Parameters) -> dict[str, Tensor]:
    """Parameters by name, each tensor once (tied weights), in their order.

    Takes a tensor, a module, an iterable of tensors (named by their position) or of pairs such as
    ``model.named_parameters()``.
    """
    if isinstance(parameters, Tensor):
        return {"0": parameters}
    if isinstance(parameters, nn.Module):
        return dict(named_by(parameters))
    if isinstance(parameters, str | bytes) or not isinstance(parameters, Iterable):
        raise ParameterError(f"expected parameters, such as model.parameters(), got {parameters!r}")
    found: dict[str, Tensor] = {}
    seen: set[int] = set()
    for position, item in enumerate(parameters):
        name, tensor = _pair(item, position)
        if id(tensor) in seen:
            continue
        if name in found:
            raise ParameterError(f"two different parameters are both named {name!r}")
        seen.add(id(tensor))
        found[name] = tensor
    return found


def named_by(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """A model's parameters with their names: of one that is sharded those that the optimizer has.

    After an evaluation some are still gathered, and others are in their place until the next backward.
    """
    for module in model.modules():
        if any(kind.__name__ == "FSDPModule" for kind in type(module).__mro__):
            module.reshard()  # type: ignore[operator]
    return model.named_parameters()


def _pair(item: Any, position: int) -> tuple[str, Tensor]:
    if isinstance(item, Tensor):
        return str(position), item
    if (
        isinstance(item, tuple)
        and len(item) == 2
        and isinstance(item[0], str)
        and isinstance(item[1], Tensor)
    ):
        return item[0], item[1]
    raise ParameterError(f"expected a tensor or a (name, tensor) pair at position {position}, got {item!r}")


def of_optimizers(optimizers: Sequence[torch.optim.Optimizer], model: nn.Module | None) -> dict[str, Tensor]:
    """The optimizers' parameters, named by the model, or by the optimizer itself, or by position.

    Groups may name different parameters alike (two modules, one optimizer); the later ones get their group's
    number before the name, and those of a later optimizer the optimizer's.
    """
    names = {id(p): name for name, p in named_by(model)} if model is not None else {}
    found: dict[str, Tensor] = {}
    seen: set[int] = set()
    for which, optimizer in enumerate(optimizers):
        prefix = f"optimizer{which}." if which else ""
        for number, group in enumerate(optimizer.param_groups):
            own_names = group.get("param_names", [])
            for position, parameter in enumerate(group["params"]):
                if id(parameter) in seen:
                    continue
                seen.add(id(parameter))
                unnamed = f"{prefix}group{number}.{position}"
                own = own_names[position] if position < len(own_names) else unnamed
                name = names.get(id(parameter), own)
                if name in found:
                    name = f"{prefix}group{number}.{name}"
                found[unnamed if name in found else name] = parameter
    if model is not None and found and not seen & names.keys():
        raise ParameterError("none of the optimizer's parameters belongs to the model that was given")
    return found


def refuse_unmade(parameters: dict[str, Tensor]) -> None:
    """A lazy parameter has no shape yet, and a history needs one.

    Raises:
        ParameterError: naming the first one.
    """
    for name, parameter in parameters.items():
        if is_lazy(parameter):
            raise ParameterError(f"{name!r} has no shape yet: run the model once before clipping is set up")


def refuse_gradients(function: str, tensors: Sequence[Tensor]) -> None:
    """ParameterError if these, none of which has a gradient, are gradients in place of parameters."""
    if tensors and not any(map(_may_have_gradient, tensors)):
        raise ParameterError(
            f"{function} takes parameters and changes their gradients; none of these {len(tensors)} tensors"
            " is a parameter or has a gradient: pass model.parameters() or the like, not the gradients"
        )


def _may_have_gradient(tensor: Tensor) -> bool:
    return isinstance(tensor, nn.Parameter) or (
        tensor.requires_grad and (tensor.is_leaf or tensor.retains_grad)
    )


def embedding_weights(model: nn.Module | None) -> set[int]:
    """Ids of the weights of embeddings: their norm grows with the vocabulary, not with what a step moves."""
    if model is None:
        return set()
    kinds = (nn.Embedding, nn.EmbeddingBag)
    # Not `module.weight`, which a parametrization makes anew each time.
    return {id(p) for module in model.modules() if isinstance(module, kinds) for p in module.parameters()}
