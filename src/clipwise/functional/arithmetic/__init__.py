"""What clipping does to the arrays of each framework whose arrays are values."""

import importlib
import sys
from collections.abc import Iterable

import numpy as np

from clipwise.functional.arithmetic.base import Arithmetic
from clipwise.namespace import Array, namespace_of

__all__ = ["Arithmetic", "arithmetic_of"]

FRAMEWORKS = {"jax": "JaxArithmetic", "tensorflow": "TensorFlowArithmetic", "torch": "TorchArithmetic"}


def arithmetic_of(arrays: Iterable[Array | None]) -> Arithmetic:
    """The arithmetic of the framework that the arrays are of; numpy's where there is none.

    >>> import numpy as np
    >>> arithmetic_of([None, np.ones(2)]).xp.float_dtype
    dtype('float64')
    """
    for array in arrays:
        if array is not None:
            for name, made in FRAMEWORKS.items():
                # A framework is touched only where it is loaded, as it is where there is an array of it.
                if name in sys.modules:
                    module = importlib.import_module(f"clipwise.functional.arithmetic.{name}")
                    if module.is_own(array):
                        found: Arithmetic = getattr(module, made)(array)
                        return found
            break
    return Arithmetic(namespace_of(np.zeros(0)))
