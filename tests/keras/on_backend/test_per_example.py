"""Single examples of a model of Keras, by the back end's own `per_example`, against the formula."""

import keras
import numpy as np
import pytest

import clipwise
from clipwise.errors import ArgumentError

RNG = np.random.default_rng(3)
WORDS, Y = RNG.integers(9, size=(5, 4)), RNG.normal(size=5).astype("float32")


def clipped(model, clip):
    """The sums of clipped gradients of ``(model(x) - y)^2``, by variable."""
    backend, variables = keras.backend.backend(), model.trainable_variables
    if backend == "tensorflow":
        step = clipwise.tensorflow.per_example(lambda x, y: (model(x[None])[0, 0] - y) ** 2, clip, "sum")
        return step(variables, WORDS, Y)[0]
    if backend == "jax":
        fixed = [one.value for one in model.non_trainable_variables]

        def loss_fn(params, x, y):
            return (model.stateless_call(params, fixed, x[None])[0][0, 0] - y) ** 2

        step = clipwise.jax.per_example(loss_fn, clip, "sum")
        return step([one.value for one in variables], WORDS, Y)[0]
    import torch

    step = clipwise.torch.per_example(model, clip, "sum", route="ghost")
    step.backward(lambda found, y: (found[:, 0] - y) ** 2, torch.tensor(WORDS), torch.tensor(Y))
    return [one.value.grad for one in variables]


def test_examples_of_a_model_of_keras():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.layers.Embedding(9, 3), keras.layers.Flatten(), keras.layers.Dense(1)])
    model(WORDS)
    table, kernel, bias = (keras.ops.convert_to_numpy(one) for one in model.trainable_variables)
    bound = 0.3
    totals = [np.zeros(one.shape) for one in (table, kernel, bias)]
    for x, y in zip(WORDS, Y, strict=True):
        features = table[x].ravel()
        slope = 2 * (features @ kernel[:, 0] + bias[0] - y)
        rows = np.zeros(table.shape)
        np.add.at(rows, x, slope * kernel.reshape(4, 3))
        each = rows, slope * features[:, None], np.array([slope])
        norm = np.sqrt(sum((one**2).sum() for one in each))
        for total, one in zip(totals, each, strict=True):
            total += one * min(1, bound / norm)
    found = clipped(model, clipwise.clip_by_global_norm(bound))
    for one, total in zip(found, totals, strict=True):
        np.testing.assert_allclose(keras.ops.convert_to_numpy(one), total, rtol=1e-4, atol=1e-6)


def test_an_optimizer_has_no_gradients_of_examples():
    with pytest.raises(AttributeError, match=r"one gradient of the whole batch.*clipwise\.tensorflow"):
        _ = clipwise.keras.per_example
    with pytest.raises(ArgumentError, match="per_example"):
        clipwise.keras.attach(keras.optimizers.SGD(), clipwise.Clip(clipwise.thresholds.automatic()))
