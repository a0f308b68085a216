"""What clipping must give, once more: plain numpy in float64, sharing no code with clipwise.

``clip(gradients, description)`` takes a dict of arrays (None for a missing gradient) and returns the clipped
arrays in float64 and the joint norm before. A description is (per, norm, threshold).
"""

import math

import numpy as np


def widened(array: np.ndarray) -> np.ndarray:
    return array.astype(np.complex128 if np.iscomplexobj(array) else np.float64)


def p_norm(values: np.ndarray, p) -> float:
    """The p-norm of all entries, or their root mean square, safe from overflow."""
    moduli = np.abs(values).ravel()
    if moduli.size == 0:
        return 0.0
    largest = moduli.max()
    if largest == 0 or not math.isfinite(largest) or p == math.inf:
        return float(largest)
    if p == "rms":
        return float(largest * math.sqrt(((moduli / largest) ** 2).mean()))
    return float(largest * ((moduli / largest) ** p).sum() ** (1 / p))


def shrink(values: np.ndarray, norm: float, threshold: float) -> np.ndarray:
    return values if norm <= threshold else values * (threshold / norm)


def units(array: np.ndarray) -> list[np.ndarray]:
    """Views of the units: rows along axis 0, or the whole of a vector or number."""
    return [array[i] for i in range(array.shape[0])] if array.ndim > 1 and array.size else [array]


def clip(gradients, per, norm, threshold):
    wide = {name: widened(g) for name, g in gradients.items() if g is not None}
    flat = np.concatenate([g.ravel() for g in wide.values()]) if wide else np.zeros(0)
    before = p_norm(flat, 2.0 if per == "element" else norm)
    if per == "element":
        if isinstance(threshold, tuple):
            out = {name: np.clip(g, *threshold) for name, g in wide.items()}
        else:
            out = {name: _by_modulus(g, threshold) for name, g in wide.items()}
    elif per == "global":
        out = {name: shrink(g, before, threshold) for name, g in wide.items()}
    elif per == "tensor":
        out = {name: shrink(g, p_norm(g, norm), threshold) for name, g in wide.items()}
    else:
        out = {}
        for name, g in wide.items():
            pieces = [shrink(unit, p_norm(unit, norm), threshold) for unit in units(g)]
            out[name] = np.stack(pieces) if g.ndim > 1 and g.size else pieces[0]
    return out, before


def _by_modulus(values: np.ndarray, threshold: float) -> np.ndarray:
    modulus = np.abs(values)
    over = modulus > threshold
    return np.where(over, values * (np.where(over, threshold, 1.0) / np.where(over, modulus, 1.0)), values)


def reshaped(gradients, axis_to: int):
    """The same weights in a framework whose units lie along another axis: axis 0 moved there, or back."""
    here, there = (0, -1) if axis_to == -1 else (-1, 0)
    return {
        name: value
        if value is None or value.ndim < 2
        else np.ascontiguousarray(np.moveaxis(value, here, there))
        for name, value in gradients.items()
    }
