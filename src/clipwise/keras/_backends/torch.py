"""Keras on PyTorch: everything is eager, so a step is skipped with a plain ``if``."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from keras import ops


def like() -> Any:
    """An array of this back end, on the device that Keras uses."""
    return ops.zeros(())


def read(variable: Any) -> Any:
    """The value of a variable; the same memory receives the next value."""
    return variable.value.detach()


def snapshot(variable: Any) -> Any:
    """A copy of the value of a variable, on its device."""
    return variable.value.detach().clone()


def prepare(
    optimizer: Any, gradients: Sequence[Any], whole: bool
) -> tuple[list[Any], Callable[[Sequence[Any]], list[Any]]]:
    dense = [torch.as_tensor(g).detach() for g in gradients]
    return [g if g.layout == torch.strided else g.to_dense() for g in dense], list


def is_traced(arrays: Sequence[Any]) -> bool:
    return torch.compiler.is_compiling()


def unless(optimizer: Any, skip: Any, act: Callable[..., Any], *arguments: Any) -> None:
    if not skip.value > 0:
        act(*arguments)


def undone(skip: Any, variables: Sequence[Any]) -> AbstractContextManager[None]:
    return nullcontext()


def as_it_is(function: Callable[..., Any]) -> Callable[..., Any]:
    return function


def write(optimizer: Any, variables: Sequence[Any], arrays: Sequence[Any]) -> None:
    for variable, array in zip(variables, arrays, strict=True):
        variable.assign(array)
