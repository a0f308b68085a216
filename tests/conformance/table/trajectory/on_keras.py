"""The problem in Keras, on the back end of this process: gradients by the framework, the step by Keras."""

import os

import keras
import numpy as np

import clipwise.keras

from . import problem


def loss_of(weights, x, y):
    named = dict(zip(problem.SHAPES, weights, strict=True))
    return problem.loss(named, x, y, keras.ops.tanh, keras.ops.sigmoid, keras.ops.mean)


def train(clip, dtype: str):
    keras.config.set_floatx(dtype)
    variables = []
    for name, w in problem.weights().items():
        scope, leaf = name.split(".")
        with keras.name_scope(scope):
            variables.append(keras.Variable(w, dtype=dtype, name=leaf))
    optimizer = clipwise.keras.attach(keras.optimizers.SGD(problem.RATE), clip)
    gradients_of = {"jax": _jax, "tensorflow": _tensorflow, "torch": _torch}[keras.backend.backend()]()
    for x, y in problem.batches():
        data = (keras.ops.convert_to_tensor(array, dtype=dtype) for array in (x, y))
        optimizer.apply(gradients_of(variables, *data), variables)
        now = {
            n: np.array(keras.ops.convert_to_numpy(v)) for n, v in zip(problem.SHAPES, variables, strict=True)
        }
        yield float(clipwise.keras.report(optimizer).threshold), dict(zip(problem.SHAPES, now, strict=True))


def _jax():
    import jax

    os.environ.setdefault("JAX_ENABLE_X64", "1")
    gradient = jax.jit(jax.grad(loss_of))
    return lambda variables, x, y: gradient([v.value for v in variables], x, y)


def _tensorflow():
    import tensorflow as tf

    @tf.function(autograph=False)
    def gradient(values, x, y):
        with tf.GradientTape() as tape:
            tape.watch(values)
            loss = loss_of(values, x, y)
        return tape.gradient(loss, values)

    return lambda variables, x, y: gradient([v.value for v in variables], x, y)


def _torch():
    import torch

    def gradient(variables, x, y):
        values = [v.value.detach().clone().requires_grad_() for v in variables]
        return torch.autograd.grad(loss_of(values, x, y), values)

    return lambda variables, x, y: list(gradient(variables, x, y))
