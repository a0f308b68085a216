"""The problem in Keras, on the back end of this process, compiled where Keras compiles."""

import contextlib
from collections.abc import Iterator
from functools import cache

import keras
import numpy as np

import clipwise.keras

from . import problem


def loss_of(weights, x, y):
    named = dict(zip(problem.SHAPES, weights, strict=True))
    return problem.loss(named, x, y, *functions())


@cache
def functions():
    """The framework's own: on JAX, Keras' would give float32."""
    match keras.backend.backend():
        case "jax":
            import jax

            return jax.numpy.tanh, jax.nn.sigmoid, jax.numpy.mean
        case "tensorflow":
            import tensorflow as tf

            return tf.tanh, tf.sigmoid, tf.reduce_mean
        case _:
            import torch

            return torch.tanh, torch.sigmoid, torch.mean


@contextlib.contextmanager
def wide_enough(dtype: str) -> Iterator[None]:
    before = keras.config.floatx()
    keras.config.set_floatx(dtype)
    try:
        if keras.backend.backend() == "jax":
            from tests.x64 import enable_x64

            with enable_x64(dtype == "float64"):
                yield
        else:
            yield
    finally:
        keras.config.set_floatx(before)


def train(clip, dtype: str):
    with wide_enough(dtype):
        yield from _train(clip, dtype)


def _train(clip, dtype: str):
    variables = []
    for name, w in problem.weights().items():
        scope, leaf = name.split(".")
        with keras.name_scope(scope):
            variables.append(keras.Variable(w, dtype=dtype, name=leaf))
    optimizer = clipwise.keras.attach(keras.optimizers.SGD(problem.RATE), clip)
    optimizer.build(variables)
    step = {"jax": _jax, "tensorflow": _tensorflow, "torch": _torch}[keras.backend.backend()]
    act = step(optimizer, variables)
    for x, y in problem.batches():
        act(*(keras.ops.convert_to_tensor(array, dtype=dtype) for array in (x, y)))
        now = [np.array(keras.ops.convert_to_numpy(variable)) for variable in variables]
        report = clipwise.keras.report(optimizer)
        yield float(report.threshold), dict(zip(problem.SHAPES, now, strict=True)), problem.held(report)


def _jax(optimizer, variables):
    import jax

    step, gradient_of = jax.jit(optimizer.stateless_apply), _jax_gradient()

    def act(x, y):
        memory, weights = optimizer.variables, [v.value for v in variables]
        new = step([v.value for v in memory], gradient_of(weights, x, y), weights)
        for owners, values in zip((variables, memory), new, strict=True):
            for variable, value in zip(owners, values, strict=True):
                variable.assign(value)

    return act


@cache
def _jax_gradient():
    """Compiled once for all clips."""
    import jax

    return jax.jit(jax.grad(loss_of))


def _tensorflow(optimizer, variables):
    import tensorflow as tf

    apply = tf.function(lambda *gradients: optimizer.apply(list(gradients), variables), autograph=False)
    gradient_of = _tensorflow_gradient()
    return lambda x, y: apply(*gradient_of([v.value for v in variables], x, y))


@cache
def _tensorflow_gradient():
    import tensorflow as tf

    @tf.function(autograph=False)
    def gradient_of(values, x, y):
        with tf.GradientTape() as tape:
            tape.watch(values)
            loss = loss_of(values, x, y)
        return tape.gradient(loss, values)

    return gradient_of


def _torch(optimizer, variables):
    import torch

    def act(x, y):
        values = [v.value.detach().clone().requires_grad_() for v in variables]
        optimizer.apply(list(torch.autograd.grad(loss_of(values, x, y), values)), variables)

    return act
