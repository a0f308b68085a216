"""Keras on JAX: arrays are immutable, so a step is skipped by not selecting its results."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import jax.numpy as jnp
from jax.experimental import sparse

from clipwise import namespace
from clipwise.errors import StateError


def like() -> Any:
    """An array of this back end."""
    return jnp.zeros(())


def read(variable: Any) -> Any:
    """The value of a variable.

    Raises:
        StateError: Keras has removed it from the variable during ``fit``.
    """
    try:
        return variable.value
    except TypeError:
        if variable._value is not None or variable._initializer is not None:
            raise
        raise StateError(
            "while fit runs, Keras on JAX keeps the values of an optimizer's variables outside of them: in a"
            " callback go through its model, as in clipwise.keras.report(self.model.optimizer)"
        ) from None


snapshot = read


def prepare(
    optimizer: Any, gradients: Sequence[Any], whole: bool
) -> tuple[list[Any], Callable[[Sequence[Any]], list[Any]]]:
    return [g.todense() if isinstance(g, sparse.JAXSparse) else jnp.asarray(g) for g in gradients], list


def is_traced(arrays: Sequence[Any]) -> bool:
    return any(map(namespace.is_traced, arrays))


def unless(optimizer: Any, skip: Any, act: Callable[..., Any], *arguments: Any) -> None:
    act(*arguments)  # and `undone` after it


@contextmanager
def undone(skip: Any, variables: Sequence[Any]) -> Iterator[None]:
    before = [variable.value for variable in variables]
    yield
    flag = skip.value > 0
    for variable, value in zip(variables, before, strict=True):
        if variable.value is not value:
            variable.assign(jnp.where(flag, value, variable.value))


def as_it_is(function: Callable[..., Any]) -> Callable[..., Any]:
    return function


def write(optimizer: Any, variables: Sequence[Any], arrays: Sequence[Any]) -> None:
    for variable, array in zip(variables, arrays, strict=True):
        variable.assign(array)
