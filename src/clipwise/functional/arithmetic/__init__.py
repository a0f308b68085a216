"""Array operations of clipping for each framework with immutable arrays."""

import importlib
from collections.abc import Iterable

import numpy as np

from clipwise.functional.arithmetic.base import Arithmetic
from clipwise.namespace import Array, framework_of, namespace_of

__all__ = ["Arithmetic", "arithmetic_of"]

FRAMEWORKS = {"jax": "JaxArithmetic", "tensorflow": "TensorFlowArithmetic", "torch": "TorchArithmetic"}


def arithmetic_of(arrays: Iterable[Array | None]) -> Arithmetic:
    """The arithmetic for the framework of the arrays; numpy's if there is none.

    >>> import numpy as np
    >>> arithmetic_of([None, np.ones(2)]).xp.float_dtype
    dtype('float64')
    """
    first = next((array for array in arrays if array is not None), None)
    framework = framework_of(first)
    if framework not in FRAMEWORKS:
        return Arithmetic(namespace_of(np.zeros(0)))
    module = importlib.import_module(f"{__name__}.{framework}")
    found: Arithmetic = getattr(module, FRAMEWORKS[framework])(first)
    return found
