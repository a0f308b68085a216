"""The problem in TensorFlow, in a function and eagerly."""

import tensorflow as tf

import clipwise.tensorflow

from . import problem


@tf.function(autograph=False)
def gradient_of(values, x, y):
    """Traced once for all clips."""
    with tf.GradientTape() as tape:
        tape.watch(values)
        weights = dict(zip(problem.SHAPES, values, strict=True))
        loss = problem.loss(weights, x, y, tf.tanh, tf.sigmoid, tf.reduce_mean)
    return loss, tape.gradient(loss, values)


def train(clip, dtype: str, follows_loss: bool = False, *, eager: bool = False):
    variables = [
        tf.Variable(tf.constant(w, dtype), name=name.replace(".", "/"))
        for name, w in problem.weights().items()
    ]

    def step(loss, gradients, state):
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
        return state, report

    act = step if eager else tf.function(step, autograph=False)
    state = clipwise.tensorflow.init(clip, variables)
    for x, y in problem.batches():
        values = [variable.value() for variable in variables]
        loss, gradients = gradient_of(values, tf.constant(x, dtype), tf.constant(y, dtype))
        state, report = act(loss, gradients, state)
        now = {n: v.numpy() for n, v in zip(problem.SHAPES, variables, strict=True)}
        yield float(report.threshold), now, problem.held(report)
