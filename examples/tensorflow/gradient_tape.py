"""TensorFlow: `clip` in a GradientTape loop, compiled by `tf.function`.

`clip` is a pure function: what an adaptive threshold remembers goes in and comes out as `state`.

    python examples/tensorflow/gradient_tape.py
"""

import tensorflow as tf

import clipwise

tf.random.set_seed(0)
first = tf.Variable(tf.random.normal((16, 64)) / 4, name="first")
second = tf.Variable(tf.random.normal((64, 1)) / 8, name="second")
variables = [first, second]
clip = clipwise.autoclip(50)  # the median of the norms so far


@tf.function
def train_step(x: tf.Tensor, y: tf.Tensor, state):
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(tf.square(tf.nn.relu(x @ first) @ second - y))
    gradients = tape.gradient(loss, variables)
    gradients, state, report = clipwise.tensorflow.clip(clip, gradients, state, variables)
    for variable, gradient in zip(variables, gradients, strict=True):
        variable.assign_sub(0.01 * gradient)
    return loss, state, report


state = clipwise.tensorflow.init(clip, variables)
clipped = 0
for step in range(201):
    x = tf.random.normal((64, 16))
    y = tf.reduce_sum(tf.square(x[:, :4]), axis=1, keepdims=True)
    loss, state, report = train_step(x, y, state)
    clipped += bool(report.clipped)
    if step % 50 == 0:
        print(f"step {step:3}  loss {loss:.3f}  {report}")

print(
    f"clipped {clipped} of {step + 1} steps, traced once: {train_step.experimental_get_tracing_count() == 1}"
)
