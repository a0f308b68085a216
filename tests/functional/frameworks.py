"""The same function on the arrays of every framework: values, gradients, and once more when compiled."""

import jax
import jax.numpy as jnp
import numpy as np
import tensorflow as tf
import torch

from tests.x64 import enable_x64


class Torch:
    name = "torch"

    @staticmethod
    def array(x, dtype="float32"):
        return torch.from_numpy(np.array(x, dtype="float64")).to(getattr(torch, dtype))

    @staticmethod
    def numpy(x):
        return x.detach().numpy()

    @staticmethod
    def integers(x):
        return torch.tensor(x)

    @staticmethod
    def gradients(function, *arrays):
        arrays = [a.clone().requires_grad_() for a in arrays]
        return [g.numpy() for g in torch.autograd.grad(function(*arrays).sum(), arrays)]

    @staticmethod
    def compiled(function):
        return torch.compile(function, fullgraph=True, backend="aot_eager")


class Jax:
    name = "jax"

    @staticmethod
    def array(x, dtype="float32"):
        with enable_x64(dtype == "float64"):
            return jnp.asarray(np.array(x), dtype=dtype)

    @staticmethod
    def numpy(x):
        return np.asarray(x)

    @staticmethod
    def integers(x):
        return jnp.asarray(x)

    @staticmethod
    def gradients(function, *arrays):
        grad = jax.grad(lambda *a: function(*a).sum(), argnums=tuple(range(len(arrays))))
        return [np.asarray(g) for g in grad(*arrays)]

    compiled = staticmethod(jax.jit)


class TensorFlow:
    name = "tensorflow"

    @staticmethod
    def array(x, dtype="float32"):
        return tf.constant(np.array(x), dtype)

    @staticmethod
    def numpy(x):
        return x.numpy()

    @staticmethod
    def integers(x):
        return tf.constant(x)

    @staticmethod
    def gradients(function, *arrays):
        with tf.GradientTape() as tape:
            tape.watch(arrays)
            total = tf.reduce_sum(function(*arrays))
        return [g.numpy() for g in tape.gradient(total, arrays)]

    compiled = staticmethod(tf.function)


class Numpy:
    name = "numpy"

    @staticmethod
    def array(x, dtype="float32"):
        return np.array(x, dtype)

    numpy = integers = staticmethod(np.asarray)


DIFFERENTIABLE = [Torch, Jax, TensorFlow]
ALL = [Numpy, *DIFFERENTIABLE]


def named(framework):
    return framework.name
