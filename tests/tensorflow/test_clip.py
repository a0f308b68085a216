"""`clipwise.tensorflow.clip`: each way of grouping, against float64 numpy, in each way of running."""

import math

import numpy as np
import pytest
import tensorflow as tf

import clipwise
import clipwise.tensorflow as ct
from clipwise import Clip
from clipwise.errors import ArgumentError, NonFiniteError, ParameterError, ThresholdError
from tests.depth import brief

from .conftest import WAYS

RNG = np.random.default_rng(0)
KERNEL, BIAS = RNG.normal(size=(40, 7)), RNG.normal(size=7)


def norm_of(x, p):
    x = np.abs(x).ravel()
    return math.sqrt((x**2).mean()) if p == "rms" else x.max() if p == math.inf else (x**p).sum() ** (1 / p)


def shrunk(x, norm, threshold):
    return x * min(1.0, threshold / norm) if norm else x


def reference(arrays, per, p, threshold):
    """Plain numpy in float64; a unit is a column of a kernel."""
    if per == "element":
        return [np.clip(x, -threshold, threshold) for x in arrays]
    if per == "global":
        norm = norm_of(np.concatenate([x.ravel() for x in arrays]), p)
        return [shrunk(x, norm, threshold) for x in arrays]
    if per == "tensor":
        return [shrunk(x, norm_of(x, p), threshold) for x in arrays]
    return [
        np.stack([shrunk(c, norm_of(c, p), threshold) for c in x.T], -1)
        if x.ndim > 1
        else shrunk(x, norm_of(x, p), threshold)
        for x in arrays
    ]


def run(way, clip, arrays, **options):
    @way
    def step(grads):
        found, _, report = ct.clip(clip, grads, **options)
        return found, report

    return step(arrays)


@pytest.mark.parametrize(
    ("per", "p"),
    [("element", 2.0), *[(per, p) for per in ("unit", "tensor", "global") for p in (2.0, "rms")]],
)
@pytest.mark.parametrize(
    ("ran", "dtype", "rtol"),
    [*[(w, "float32", 5e-7) for w in WAYS], ("eager", "float64", 1e-13), ("eager", "bfloat16", 8e-3)],
)
def test_groups(ran, per, p, dtype, rtol):
    if ran == "xla" and p == "rms":
        pytest.skip("what XLA compiles is the 2-norm beneath")
    given = [tf.cast(x, dtype) for x in (KERNEL, BIAS)]
    exact = [tf.cast(x, tf.float64).numpy() for x in given]
    threshold = 0.5
    found, report = run(WAYS[ran], Clip(threshold, per=per, norm=p), given)
    for got, expected, before in zip(found, reference(exact, per, p, threshold), given, strict=True):
        assert got.dtype == before.dtype
        np.testing.assert_allclose(tf.cast(got, tf.float64).numpy(), expected, rtol=rtol)
    norm = norm_of(np.concatenate([x.ravel() for x in exact]), p)
    assert float(report.norm) == pytest.approx(norm, rel=1e-6)
    assert bool(report.clipped)
    assert report.norm.dtype == tf.float64


@pytest.mark.parametrize("p", [1.0, math.inf, 3.0])
@pytest.mark.parametrize("per", ["unit", "tensor", "global"])
def test_other_orders(per, p):
    found, _, _ = ct.clip(Clip(0.5, per=per, norm=p), [tf.constant(x, tf.float32) for x in (KERNEL, BIAS)])
    exact = [x.astype(np.float32).astype(np.float64) for x in (KERNEL, BIAS)]
    for got, expected in zip(found, reference(exact, per, p, 0.5), strict=True):
        np.testing.assert_allclose(got.numpy(), expected, rtol=5e-7)


@pytest.mark.parametrize("scale", [3e20, 1e-30])
@pytest.mark.parametrize("per", ["unit", "tensor", "global"])
def test_norms_whose_squares_leave_float32(way, per, scale):
    x = (KERNEL * scale).astype(np.float32)
    exact = x.astype(np.float64)
    threshold = scale * 1e-3
    (found,), _ = run(way, Clip(threshold, per=per), [tf.constant(x)])
    (expected,) = reference([exact], per, 2.0, threshold)
    np.testing.assert_allclose(found.numpy(), expected, rtol=5e-7)


def test_many_little_tensors_of_one_shape(way):
    """In a trace they are stacked: each keeps its place, its norm, and its bits where nothing is clipped."""
    shapes = [(3,), (2, 3), (3,), (), (2, 3), (3,), (5000,), (), (2, 3), (), (4,), (3,)]
    given = [tf.constant(RNG.normal(size=shape), tf.float32) for shape in shapes]
    given[0] = tf.constant([1e-40, -1.0, 2.0])  # a product with a denormal number would be 0
    given[4] = tf.cast(given[4], tf.bfloat16)
    exact = [tf.cast(x, tf.float64).numpy() for x in given]
    for threshold in (1e-3, 1e3):
        found, report = run(way, clipwise.clip_by_global_norm(threshold), given)
        np.testing.assert_allclose(list(report.norms().values()), [norm_of(x, 2.0) for x in exact], rtol=1e-6)
        for got, before, wanted in zip(found, given, reference(exact, "global", 2.0, threshold), strict=True):
            assert (got.dtype, got.shape) == (before.dtype, before.shape)
            rtol = 4e-3 if got.dtype == tf.bfloat16 else 1e-6
            np.testing.assert_allclose(tf.cast(got, tf.float64).numpy(), wanted, rtol=rtol, atol=1e-38)
            if threshold > 1.0:
                assert got.numpy().tobytes() == before.numpy().tobytes()
    for scale in (3e20, 1e-30):
        x = [tf.constant(n * scale, tf.float32) for n in (3.0, 0.0, 4.0, 0.0)]
        found, report = run(way, clipwise.clip_by_global_norm(scale), x)
        np.testing.assert_allclose(found, np.asarray([0.6, 0.0, 0.8, 0.0]) * scale, rtol=1e-6)


def test_a_coefficient_that_float32_cannot_hold(way):
    """3e38 down to 1e-3: the coefficient, 1e-42, has few digits in float32, or none."""
    (found,), report = run(way, clipwise.clip_by_global_norm(1e-3), [tf.constant([3e38, -1e38, 0.0])])
    assert float(report.norm) == pytest.approx(math.hypot(3e38, 1e38), rel=1e-6)
    assert np.linalg.norm(found.numpy()) == pytest.approx(1e-3, rel=1e-6)


@pytest.mark.parametrize("way", brief(WAYS, "eager"), indirect=True)
def test_long_tensors_keep_six_digits(way):
    """The same number 300,000 times: an order of adding that rounds one way shows."""
    x = tf.fill((300_001,), np.float32(0.1))
    _, report = run(way, clipwise.clip_by_global_norm(1.0), [x])
    assert float(report.norm) == pytest.approx(float(np.float32(0.1)) * math.sqrt(300_001), rel=1e-6)
    _, report = run(way, Clip(1.0, per="unit"), [tf.fill((60_000, 3), np.float32(0.1))])
    assert float(report.norm) == pytest.approx(float(np.float32(0.1)) * math.sqrt(180_000), rel=1e-6)


@pytest.mark.parametrize("per", ["element", "unit", "tensor", "global"])
@pytest.mark.parametrize(
    ("ran", "dtype"),
    [("eager", d) for d in ("float16", "float32", "float64", "complex64")] + [(w, "bfloat16") for w in WAYS],
)
def test_bit_for_bit_unchanged_when_nothing_is_clipped(ran, per, dtype):
    given = [tf.cast(KERNEL, dtype), tf.zeros(3, dtype), None]
    found, report = run(WAYS[ran], Clip(1e3, per=per), given)
    for before, after in zip(given[:2], found[:2], strict=True):
        assert after.numpy().tobytes() == before.numpy().tobytes()
    assert found[2] is None
    assert not bool(report.clipped)


def test_eagerly_nothing_is_even_copied_when_nothing_is_clipped():
    given = [tf.constant(KERNEL), tf.constant(BIAS)]
    for per in ("unit", "tensor", "global"):
        found, _, _ = ct.clip(Clip(1e3, per=per), given)
        assert all(after is before for before, after in zip(given, found, strict=True))


def test_a_threshold_of_zero_gives_zeros_and_no_nan(way):
    for per in ("unit", "global"):
        found, _ = run(way, Clip(0.0, per=per), [tf.constant(KERNEL), tf.zeros(3)])
        assert all(not x.numpy().any() for x in found)


def test_complex_gradients_are_measured_by_modulus(way):
    z = KERNEL + 1j * KERNEL[::-1]
    (found,), _ = run(way, clipwise.clip_by_global_norm(0.5), [tf.constant(z, tf.complex64)])
    np.testing.assert_allclose(found.numpy(), z * 0.5 / np.linalg.norm(z), rtol=1e-6)
    (found,), _ = run(way, clipwise.clip_by_value(0.5), [tf.constant(z, tf.complex64)])
    np.testing.assert_allclose(found.numpy(), z * np.minimum(1, 0.5 / np.abs(z)), rtol=1e-6)
    with pytest.raises(ThresholdError, match="no order"):
        ct.clip(clipwise.clip_by_value(low=-1.0, high=2.0), [tf.constant(z)])


def test_units_lie_along_the_last_axis_or_where_the_user_says():
    x, clip = tf.constant(RNG.normal(size=(2, 3, 4, 5))), Clip(0.1, per="unit")
    ((last,), _, _) = ct.clip(clip, [x])
    np.testing.assert_allclose(np.sqrt((last.numpy() ** 2).sum((0, 1, 2))), 0.1)
    ((two,), _, _) = ct.clip(clip, [x], unit_axes={"0": (2, -1)})
    np.testing.assert_allclose(np.sqrt((two.numpy() ** 2).sum((0, 1))), 0.1)
    ((whole,), _, _) = ct.clip(clip, [x], unit_axes={"*": None})
    assert np.linalg.norm(whole) == pytest.approx(0.1)
    table = tf.Variable(tf.zeros((4, 3)), name="layer/embeddings")
    ((rows,), _, _) = ct.clip(clip, [tf.ones((4, 3))], variables=[table])
    np.testing.assert_allclose(np.linalg.norm(rows.numpy(), axis=1), 0.1, rtol=1e-6)
    with pytest.raises(ArgumentError, match="no axis 9"):
        ct.clip(clip, [x], unit_axes={"0": 9})


def test_the_names_of_variables():
    variables = [tf.Variable([1.0], name="dense/kernel"), tf.Variable([1.0]), tf.Variable([1.0])]
    _, _, report = ct.clip(clipwise.clip_by_norm(1.0), [tf.constant([2.0])] * 3, variables=variables)
    assert report.names == ("dense.kernel", "Variable", "Variable_1")
    grads = {"b": [tf.constant([1.0])], "a": (tf.constant([9.0]), None)}
    found, _, report = ct.clip(clipwise.clip_by_norm(1.0), grads)
    assert report.names == ("a.0", "b.0")
    assert report.worst == "a.0"
    assert found["a"][0].numpy().tolist() == [1.0]
    assert found["a"][1] is None


def test_parts_of_a_model_by_name(way):
    variables = [tf.Variable([0.0, 0.0], name=name) for name in ("encoder/w", "head/w")]
    clip = clipwise.by_name({"encoder.*": clipwise.clip_by_global_norm(1.0), "*": None})
    given = [tf.constant([3.0, 4.0])] * 2
    found, report = run(way, clip, given, variables=variables)
    np.testing.assert_allclose(found[0].numpy(), [0.6, 0.8], rtol=1e-6)
    assert found[1].numpy().tolist() == [3.0, 4.0]
    assert float(report.parts["encoder.*"].norm) == 5.0
    with pytest.raises(ParameterError, match="decoder"):
        ct.clip(clipwise.by_name({"decoder.*": None}), given, variables=variables)


def test_a_variable_that_is_listed_twice_counts_once(way):
    tied = tf.Variable([0.0, 0.0])
    gradient = tf.constant([3.0, 4.0])
    found, report = run(way, clipwise.clip_by_global_norm(1.0), [gradient] * 2, variables=[tied, tied])
    assert float(report.norm) == 5.0
    np.testing.assert_allclose(found, [[0.6, 0.8]] * 2, rtol=1e-6)


@pytest.mark.parametrize(("way", "bad"), [*[(w, np.nan) for w in WAYS], ("eager", np.inf)], indirect=["way"])
def test_nan_and_inf(way, bad):
    given = [tf.constant([bad, 3.0]), tf.constant([4.0])]
    clip = clipwise.clip_by_global_norm(1.0)
    found, report = run(way, clip, given, nonfinite="skip")
    assert all(not x.numpy().any() for x in found)
    assert bool(report.skipped)
    assert int(report.nonfinite) == 1
    assert report.worst == "0"
    found, report = run(way, clip, given, nonfinite="zero")
    np.testing.assert_allclose(np.concatenate([x.numpy() for x in found]), [0.0, 0.6, 0.8], rtol=1e-6)
    found, report = run(way, clip, given)
    assert np.isnan(found[0].numpy()[0])


def test_errors_come_first_and_name_the_value():
    x = [tf.constant([np.nan])]
    clip = clipwise.clip_by_global_norm(1.0)
    with pytest.raises(NonFiniteError, match="'0'"):
        ct.clip(clip, x, nonfinite="error")
    with pytest.raises(ArgumentError, match="inside a tf"):
        tf.function(lambda: ct.clip(clip, x, nonfinite="error")[0])()
    with pytest.raises(ArgumentError, match="'maybe'"):
        ct.clip(clip, x, nonfinite="maybe")
    with pytest.raises(ParameterError, match="int32"):
        ct.clip(clip, [tf.constant([1])])
    with pytest.raises(ParameterError, match="2 gradients and 1 variables"):
        ct.clip(clip, [x[0], x[0]], variables=[tf.Variable([1.0])])
    with pytest.raises(ParameterError, match=r"shape \(1,\), the variable \(2,\)"):
        ct.clip(clip, x, variables=[tf.Variable([1.0, 2.0])])
    with pytest.raises(ParameterError, match="SparseTensor"):
        ct.clip(clip, [tf.sparse.from_dense([1.0])])
    with pytest.raises(ParameterError, match="must be a tensor"):
        ct.clip(clip, ["kernel"])
    with pytest.raises(ParameterError, match="parameters with the gradients"):
        ct.clip(clipwise.adaptive_grad_clip(), [tf.constant([1.0])])
    with pytest.raises(ParameterError, match="loss"):
        ct.clip(Clip(clipwise.thresholds.reduce_on_instability()), [tf.constant([1.0])])
    with pytest.raises(ArgumentError, match=r"learning_rate .* shape \(2,\)"):
        ct.clip(clip, [tf.constant([1.0])], learning_rate=tf.constant([0.1, 0.2]))
    with pytest.raises(ArgumentError, match="expected a clip"):
        ct.clip(1.0, x)


@pytest.mark.parametrize("way", ["eager", "function"], indirect=True)
def test_nothing_to_clip(way):
    for given in ([], [None], [tf.zeros((0, 3))]):
        found, report = run(way, clipwise.clip_by_global_norm(1.0), given)
        assert len(found) == len(given)
        assert float(report.norm) == 0.0
        assert not bool(report.clipped)


def test_a_threshold_that_is_a_tensor(way):
    @way
    def step(threshold, grads):
        return ct.clip(clipwise.clip_by_global_norm(threshold), grads)[0]

    (found,) = step(tf.constant(0.5), [tf.constant([3.0, 4.0])])
    np.testing.assert_allclose(found.numpy(), [0.3, 0.4], rtol=1e-6)


@pytest.mark.parametrize("way", ["eager", "function"], indirect=True)
def test_a_direction_that_is_asked_for(way):
    given = [tf.constant(KERNEL), tf.constant(BIAS)]
    _, report = run(way, clipwise.clip_by_value(0.5), given, direction=True)
    before = np.concatenate([KERNEL.ravel(), BIAS])
    after = np.clip(before, -0.5, 0.5)
    cosine = before @ after / np.linalg.norm(before) / np.linalg.norm(after)
    assert float(report.direction) == pytest.approx(cosine, rel=1e-9)


def test_a_string_is_a_clip():
    (found,), _, _ = ct.clip("clip_by_global_norm(1.0)", [tf.constant([3.0, 4.0])])
    np.testing.assert_allclose(found.numpy(), [0.6, 0.8], rtol=1e-6)


def test_a_variable_of_integers_is_no_gradient():
    with pytest.raises(ParameterError, match=r"the variable '0' must be of floats, got int32"):
        ct.init(clipwise.autoclip(10), [tf.constant([1])])


def test_what_a_trace_knows_nothing_of():
    """Of a threshold it has to know that it is one number; a gradient has the shape of its variable."""
    unknown = tf.TensorSpec(None, tf.float32)
    for make in (clipwise.clip_by_norm, lambda t: clipwise.clip_by_value(low=t, high=1.0)):
        with pytest.raises(ThresholdError, match=r"must be a single number, of shape \(\), got .*<unknown>"):
            tf.function(make, input_signature=[unknown], autograph=False)(1.0)

    def columns(gradient):
        return ct.clip(Clip(1.0, per="unit"), [gradient], variables=[tf.zeros((2, 2))])[0]

    (found,) = tf.function(columns, input_signature=[unknown])(tf.constant([[3.0, 0.5], [4.0, 0.0]]))
    np.testing.assert_allclose(found.numpy(), [[0.6, 0.5], [0.8, 0.0]], rtol=1e-6)
