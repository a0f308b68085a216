"""Single steps: units, names, missing gradients, and where Keras' own clips differ."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import keras
import numpy as np
import pytest

import clipwise
from tests.keras.on_backend import nets


def variables(*shapes):
    rng = np.random.default_rng(1)
    return [
        keras.Variable(rng.normal(size=shape).astype("float32"), name=f"v{i}")
        for i, shape in enumerate(shapes)
    ]


def step(optimizer, gradients, of):
    """What one step with a learning rate of 1 takes away."""
    before = [np.array(keras.ops.convert_to_numpy(v)) for v in of]
    given = [None if g is None else keras.ops.convert_to_tensor(np.asarray(g, "float32")) for g in gradients]
    optimizer.apply(given, of)
    return [b - keras.ops.convert_to_numpy(v) for b, v in zip(before, of, strict=True)]


def zeros(*shapes):
    return [keras.Variable(np.zeros(shape, "float32"), name=f"v{i}") for i, shape in enumerate(shapes)]


def clipped(clip, gradients, **settings):
    optimizer = clipwise.keras.attach(keras.optimizers.SGD(1.0), clip, **settings)
    return step(optimizer, gradients, zeros(*(np.shape(g) for g in gradients))), optimizer


def keras_own(gradients, **own):
    return step(keras.optimizers.SGD(1.0, **own), gradients, zeros(*(np.shape(g) for g in gradients)))


def gradients(*shapes):
    rng = np.random.default_rng(5)
    return [rng.normal(size=shape).astype("float32") for shape in shapes]


@pytest.mark.parametrize(
    ("own", "clip"),
    [
        ({"clipnorm": 0.7}, "clip_by_norm(0.7)"),
        ({"global_clipnorm": 0.7}, "clip_by_global_norm(0.7)"),
        ({"clipvalue": 0.7}, "clip_by_value(0.7)"),
    ],
    ids=str,
)
def test_as_keras_own_on_ordinary_gradients(own, clip):
    given = gradients((3, 4), (4,), (), (2, 3, 5))
    for one, other in zip(clipped(clip, given)[0], keras_own(given, **own), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)


def test_where_keras_own_differ():
    below = gradients((4,))
    assert np.array_equal(clipped("clip_by_global_norm(100.0)", below)[0][0], below[0])

    huge = [np.asarray([3e20, 4e20], "float32")]
    for own in ({"global_clipnorm": 1.0}, {"clipnorm": 1.0}):
        assert not np.allclose(keras_own(huge, **own)[0], [0.6, 0.8])
    for clip in ("clip_by_global_norm(1.0)", "clip_by_norm(1.0)"):
        np.testing.assert_allclose(clipped(clip, huge)[0][0], [0.6, 0.8], rtol=1e-6)

    tiny = [np.asarray([3e-30, 4e-30], "float32")]
    np.testing.assert_allclose(
        clipped("clip_by_global_norm(1e-30)", tiny)[0][0], [0.6e-30, 0.8e-30], rtol=1e-5
    )

    np.testing.assert_array_equal(keras_own(below, clipnorm=0.0)[0], below[0])  # 0 turns it off
    assert not clipped("clip_by_norm(0.0)", below)[0][0].any()

    nan = [np.asarray([np.nan, 1.0], "float32"), np.asarray([1.0], "float32")]
    assert np.isnan(keras_own(nan, global_clipnorm=1.0)[1]).all()
    assert not clipped("clip_by_global_norm(1.0)", nan)[0][1].any()

    nothing = [np.zeros(2, "float32")]
    assert not np.asarray(clipped("clip_by_global_norm(1.0)", nothing)[0]).any()


def test_without_some_gradients():
    of = variables((2,), (3,), (2,))
    optimizer = clipwise.keras.attach(keras.optimizers.SGD(1.0), "adagc")
    with pytest.warns(UserWarning, match="Gradients do not exist"):
        taken = step(optimizer, [[3.0, 4.0], None, [0.0, 1.0]], of)
    assert not taken[1].any()
    assert clipwise.keras.report(optimizer).norms() == {"v0": 5.0, "v2": 1.0}
    step(optimizer, [[3.0, 4.0], [1.0, 0.0, 0.0], [0.0, 1.0]], of)
    assert list(clipwise.keras.report(optimizer).norms()) == ["v0", "v1", "v2"]


UNITS = {
    "transposed": (lambda: keras.layers.Conv2DTranspose(3, 2), (4, 4, 5), "kernel", (2,)),
    "depthwise": (lambda: keras.layers.DepthwiseConv2D(2, depth_multiplier=3), (4, 4, 5), "kernel", (2, 3)),
    "plain": (lambda: keras.layers.Conv2D(3, 2), (4, 4, 5), "kernel", (3,)),
    "heads": (lambda: keras.layers.EinsumDense("ab,bcd->acd", (3, 4)), (5,), "kernel", (1, 2)),
    "joined heads": (lambda: keras.layers.EinsumDense("abc,bcd->ad", (4,)), (2, 5), "kernel", (2,)),
    "rows": (lambda: keras.layers.Embedding(7, 3), (2,), "embeddings", (0,)),
}


@pytest.mark.parametrize("name", UNITS)
def test_units_of_layers(name):
    layer, shape, weight, axes = UNITS[name]
    model = keras.Sequential([keras.Input(shape), layer()])
    (kernel,) = [v for v in model.trainable_variables if v.name == weight]
    value = np.asarray(kernel.numpy(), np.float64)
    optimizer = clipwise.keras.attach(keras.optimizers.SGD(1.0), "adaptive_grad_clip(0.1)", model=model)
    given = np.random.default_rng(2).normal(size=kernel.shape).astype("float32")
    (taken,) = step(optimizer, [given], [kernel])
    rest = tuple(axis for axis in range(given.ndim) if axis not in axes)
    limit = 0.1 * np.maximum(np.sqrt((value**2).sum(rest, keepdims=True)), 1e-3)
    expected = given * np.minimum(
        1.0, limit / np.sqrt((given.astype(np.float64) ** 2).sum(rest, keepdims=True))
    )
    np.testing.assert_allclose(taken, expected, rtol=2e-3, atol=1e-6)  # the difference of weights in float32
    copy = type(optimizer).from_config(optimizer.get_config())
    assert copy._clipwise.units == optimizer._clipwise.units


def test_direction_where_it_is_asked_for():
    found, optimizer = clipped("clip_by_value(1.0)", [[3.0, 0.5]], direction=True)
    a, b = np.asarray([3.0, 0.5]), found[0]
    expected = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
    np.testing.assert_allclose(float(clipwise.keras.report(optimizer).direction), expected, rtol=1e-6)
    _, plain = clipped("clip_by_value(1.0)", [[3.0, 0.5]])
    assert clipwise.keras.report(plain).direction is None


def test_half_precision_variables():
    variable = keras.Variable(np.zeros(2), dtype="float16", name="v")
    optimizer = clipwise.keras.attach(keras.optimizers.SGD(1.0), "clip_by_global_norm(1.0)")
    optimizer.apply([keras.ops.convert_to_tensor(np.asarray([3e4, 4e4], "float16"))], [variable])
    np.testing.assert_allclose(keras.ops.convert_to_numpy(variable), [-0.6, -0.8], rtol=1e-3)
    np.testing.assert_allclose(float(clipwise.keras.report(optimizer).norm), 5e4, rtol=1e-3)


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="JAX has no float64 unless it is asked for")
@pytest.mark.parametrize("clip", ["clip_by_global_norm(1.0)", "clip_by_norm(1.0)"])
def test_float64_whose_squares_overflow(clip):
    variables = [keras.Variable(np.zeros(2), dtype="float64", name=f"v{i}") for i in range(2)]
    optimizer = clipwise.keras.attach(keras.optimizers.SGD(1.0), clip)
    given = [np.asarray([3e200, 4e200]), np.zeros(2)]
    optimizer.apply([keras.ops.convert_to_tensor(g) for g in given], variables)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(variables[0]), [-0.6, -0.8], rtol=1e-6)
    np.testing.assert_allclose(float(clipwise.keras.report(optimizer).norm), 5e200, rtol=1e-6)


def test_attached_to_one_that_is_built_and_detached():
    of = variables((2,))
    plain = keras.optimizers.SGD(1.0, momentum=0.5)
    plain.build(of)
    names, kind = [v.path for v in plain.variables], type(plain)
    optimizer = clipwise.keras.attach(plain, "clip_by_norm(1.0)")
    assert optimizer is plain
    np.testing.assert_allclose(step(optimizer, [[3.0, 4.0]], of)[0], [0.6, 0.8], rtol=1e-5)
    clipwise.keras.detach(optimizer, model=nets.net())
    assert (type(plain), [v.path for v in plain.variables]) == (kind, names)
    np.testing.assert_allclose(step(optimizer, [[3.0, 4.0]], of)[0], [3.3, 4.4], rtol=1e-5)


class Two(NamedTuple):
    last: Any
    before: Any


@dataclass(frozen=True)
class BeforeLast(clipwise.thresholds.Threshold):
    """The norm of two steps ago: what is handed on is what the policy was given, in another place."""

    needs = wants = frozenset()
    remembers = watches_norm = True

    def init(self, xp, shape):
        return Two(xp.full(shape, 1e9), xp.full(shape, 1e9))

    def update(self, xp, state, seen):
        return state.before, Two(seen.norm, state.last)


def test_a_state_that_is_handed_on():
    optimizer = clipwise.keras.attach(keras.optimizers.SGD(1.0), clipwise.Clip(BeforeLast(), per="global"))
    (variable,), reports = zeros((2,)), []
    for size in (10.0, 20.0, 30.0, 40.0, 50.0):
        step(optimizer, [[0.6 * size, 0.8 * size]], [variable])
        reports.append(clipwise.keras.report(optimizer))
    np.testing.assert_allclose([float(r.threshold) for r in reports], [1e9, 1e9, 10, 20, 30], rtol=1e-6)
