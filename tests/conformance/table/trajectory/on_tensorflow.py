"""The problem in TensorFlow, in a function and eagerly."""

import tensorflow as tf

import clipwise.tensorflow

from . import problem


def train(clip, dtype: str, follows_loss: bool = False, *, eager: bool = False):
    variables = [
        tf.Variable(tf.constant(w, dtype), name=name.replace(".", "/"))
        for name, w in problem.weights().items()
    ]

    def step(x, y, state):
        with tf.GradientTape() as tape:
            weights = dict(zip(problem.SHAPES, variables, strict=True))
            loss = problem.loss(weights, x, y, tf.tanh, tf.sigmoid, tf.reduce_mean)
        gradients = tape.gradient(loss, variables)
        gradients, state, report = clipwise.tensorflow.clip(
            clip,
            gradients,
            state,
            variables,
            loss=loss if follows_loss else None,
            learning_rate=problem.RATE,
            momentum=0.0,
        )
        for variable, gradient in zip(variables, gradients, strict=True):
            variable.assign_sub(problem.RATE * gradient)
        return state, report.threshold

    act = step if eager else tf.function(step, autograph=False)
    state = clipwise.tensorflow.init(clip, variables)
    for x, y in problem.batches():
        state, threshold = act(tf.constant(x, dtype), tf.constant(y, dtype), state)
        yield float(threshold), {n: v.numpy() for n, v in zip(problem.SHAPES, variables, strict=True)}
