"""Numpy values as a dtype of ml_dtypes or numpy would hold them, for frameworks that go through numpy."""

import ml_dtypes
import numpy as np

DTYPES = {
    "float64": np.float64,
    "float32": np.float32,
    "bfloat16": ml_dtypes.bfloat16,
    "float16": np.float16,
    "complex64": np.complex64,
}


def narrow(value: np.ndarray, dtype: str) -> np.ndarray:
    with np.errstate(over="ignore", under="ignore"):
        return np.asarray(value).astype(DTYPES[dtype])


def wide(value) -> np.ndarray:
    found = np.asarray(value)
    return found.astype(np.complex128 if found.dtype.kind == "c" else np.float64)


def rounded(gradients, dtype: str):
    return {k: None if v is None else wide(narrow(v, dtype)) for k, v in gradients.items()}
