"""One way to make arrays of each framework, and to differentiate with it."""

import jax
import jax.numpy as jnp
import numpy as np
import tensorflow as tf
import torch

from tests.x64 import enable_x64

MAKE = {
    "numpy": np.asarray,
    "torch": torch.as_tensor,
    "jax": jnp.asarray,
    "tensorflow": tf.convert_to_tensor,
}
DIFFERENTIABLE = ("torch", "jax", "tensorflow")


def host(x):
    return np.asarray(x.detach() if isinstance(x, torch.Tensor) else x)


def value(kind, function, array, dtype=np.float64):
    """``function(array)`` in float64 (JAX: x64), as a tree of numpy arrays."""
    with enable_x64(True):
        found = function(MAKE[kind](np.asarray(array, dtype)))
        return jax.tree.map(host, found, is_leaf=lambda x: hasattr(x, "shape"))


def gradient(kind, function, array, dtype=np.float64):
    """The gradient of a function of one array."""
    array = np.asarray(array, dtype)
    if kind == "torch":
        x = torch.tensor(array, requires_grad=True)
        function(x).backward()
        return x.grad.numpy()
    if kind == "jax":
        with enable_x64(True):
            return np.asarray(jax.jit(jax.grad(function))(jnp.asarray(array)))
    x = tf.Variable(array)
    with tf.GradientTape() as tape:
        loss = function(x)
    return tape.gradient(loss, x).numpy()


def differences(function, array, h=1e-6):
    """The gradient by central differences, in numpy's float64."""
    array = np.asarray(array, np.float64)
    found = np.zeros_like(array)
    for place in np.ndindex(array.shape):
        up, down = array.copy(), array.copy()
        up[place] += h
        down[place] -= h
        found[place] = (float(function(up)) - float(function(down))) / (2 * h)
    return found
