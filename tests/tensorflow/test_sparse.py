"""Gradients of embeddings: `tf.IndexedSlices`, with several slices of one row."""

import numpy as np
import pytest
import tensorflow as tf

import clipwise
import clipwise.tensorflow as ct
from clipwise import Clip
from clipwise.errors import ParameterError

ROWS = [3, 1, 3, 4]
VALUES = np.random.default_rng(1).normal(size=(4, 5))
DENSE = np.zeros((6, 5))
np.add.at(DENSE, ROWS, VALUES)


def slices(dtype="float32"):
    return tf.IndexedSlices(tf.constant(VALUES, dtype), tf.constant(ROWS), tf.constant([6, 5]))


def as_dense(found) -> np.ndarray:
    if isinstance(found, tf.IndexedSlices):
        assert len(set(found.indices.numpy())) == len(found.indices)
        out = np.zeros((6, 5))
        out[found.indices.numpy()] = found.values.numpy()
        return out
    return found.numpy()


def run(way, clip, **options):
    @way
    def step(values, rows):
        given = tf.IndexedSlices(values, rows, tf.constant([6, 5]))
        return ct.clip(clip, [given, tf.constant([1.0])], **options)[::2]

    return step(tf.constant(VALUES, tf.float32), tf.constant(ROWS))


@pytest.mark.parametrize("per", ["tensor", "global"])
def test_rows_are_summed_before_they_are_measured_and_stay_sparse(way, per):
    (found, other), report = run(way, Clip(0.5, per=per))
    squares = (DENSE**2).sum()
    norm = np.sqrt(squares if per == "tensor" else squares + 1.0)
    assert isinstance(found, tf.IndexedSlices)
    np.testing.assert_allclose(as_dense(found), DENSE * 0.5 / norm, rtol=1e-6)
    assert float(other[0]) == pytest.approx(0.5 if per == "tensor" else 0.5 / norm)
    assert float(report.norm) == pytest.approx(np.sqrt(squares + 1.0), rel=1e-6)


def test_entries_are_those_of_the_summed_rows(way):
    (found, _), report = run(way, clipwise.clip_by_value(0.4))
    assert isinstance(found, tf.IndexedSlices)
    np.testing.assert_allclose(as_dense(found), np.clip(DENSE, -0.4, 0.4), rtol=1e-6)
    beyond = (np.abs(DENSE) > 0.4).sum() + 1
    assert float(report.clip_fraction) == pytest.approx(beyond / 31)


@pytest.mark.parametrize("way", ["eager", "function"], indirect=True)
def test_the_root_mean_square_counts_the_rows_that_are_not_there(way):
    (found, _), _ = run(way, clipwise.clip_by_block_rms(0.1))
    np.testing.assert_allclose(as_dense(found), DENSE * 0.1 / np.sqrt((DENSE**2).mean()), rtol=1e-6)


@pytest.mark.parametrize("way", ["eager", "function"], indirect=True)
def test_units_and_ranges_without_zero_make_it_dense(way):
    (found, _), _ = run(way, Clip(0.5, per="unit"))
    assert isinstance(found, tf.Tensor)
    norms = np.linalg.norm(DENSE, axis=0)
    np.testing.assert_allclose(as_dense(found), DENSE * np.minimum(1.0, 0.5 / norms), rtol=1e-6)
    (found, _), _ = run(way, Clip(0.5, per="unit"), unit_axes={"0": 0})
    norms = np.maximum(np.linalg.norm(DENSE, axis=1, keepdims=True), 1e-30)
    np.testing.assert_allclose(as_dense(found), DENSE * np.minimum(1.0, 0.5 / norms), rtol=1e-6)
    (found, _), _ = run(way, clipwise.clip_by_value(low=0.1, high=0.3))
    np.testing.assert_allclose(as_dense(found), np.clip(DENSE, 0.1, 0.3), rtol=1e-6)


def test_bounds_of_single_entries_by_their_weights(way):
    weights = np.random.default_rng(2).normal(size=(6, 5)).astype(np.float32)
    variables = [tf.Variable(weights), tf.Variable([1.0])]
    clip = Clip(clipwise.thresholds.relative(0.1), per="element")
    (found, _), _ = run(way, clip, variables=variables)
    limits = 0.1 * np.maximum(np.abs(weights), 1e-3)
    np.testing.assert_allclose(as_dense(found), np.clip(DENSE, -limits, limits), rtol=1e-6)


def test_only_the_part_that_looks_at_units_is_made_dense():
    clip = clipwise.by_name({"0": Clip(1.0, per="unit"), "*": clipwise.clip_by_norm(1.0)})
    found, _, _ = ct.clip(clip, [slices(), slices()])
    assert isinstance(found[0], tf.Tensor)
    assert isinstance(found[1], tf.IndexedSlices)


def test_a_common_word_in_half_precision_adds_up():
    """In bfloat16 itself 1 + 1 + ... stops at 256."""
    many = tf.IndexedSlices(tf.ones((1000, 1), tf.bfloat16), tf.zeros(1000, tf.int32), tf.constant([2, 1]))
    (found,), _, report = ct.clip(clipwise.clip_by_global_norm(1e6), [many])
    assert float(report.norm) == 1000.0
    assert found.values.dtype == tf.bfloat16


def test_nan_in_a_row(way):
    @way
    def step(values):
        given = tf.IndexedSlices(values, tf.constant([0, 1]), tf.constant([3, 1]))
        return ct.clip(clipwise.clip_by_global_norm(1.0), [given], nonfinite="zero")[0]

    (found,) = step(tf.constant([[np.nan], [2.0]]))
    np.testing.assert_allclose(found.values.numpy(), [[0.0], [1.0]])


@pytest.mark.parametrize("shape", [(3, 2), [3, 2], np.array([3, 2]), tf.TensorShape((3, 2))], ids=type)
@pytest.mark.parametrize("per", ["global", "unit"])
def test_slices_as_people_write_them(shape, per):
    """TensorFlow makes no tensors of what it is given."""
    given = tf.IndexedSlices(np.array([[3.0, 4.0], [0.0, 4.0]], np.float32), [1, 1], shape)
    (found,), _, report = ct.clip(Clip(0.5, per=per), [given])
    assert float(report.norm) == pytest.approx(np.sqrt(9 + 64), rel=1e-6)
    wanted = np.array([[3.0, 8.0]]) * 0.5 / (np.sqrt(73) if per == "global" else [3.0, 8.0])
    found = found.values if per == "global" else found[1:2]
    np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-6)


def test_slices_that_are_no_rows_of_their_shape_are_refused():
    for shape in [(3, 5), (3,), ()]:
        with pytest.raises(ParameterError, match=r"of slices of shape \(1, 2\), which are not rows of"):
            ct.clip(Clip(1.0), [tf.IndexedSlices([[3.0, 4.0]], [1], shape)])
    with pytest.raises(ParameterError, match="of '0' must be slices of a tensor"):
        ct.clip(Clip(1.0), [tf.IndexedSlices(["a", 1.0], [1], (2,))])


def test_a_shape_that_nobody_knows_is_taken_from_the_variable():
    bare = tf.IndexedSlices(tf.constant([[3.0, 4.0]]), tf.constant([1]))
    clip = clipwise.clip_by_global_norm(1.0)
    with pytest.raises(ParameterError, match="need a dense_shape, or give variables"):
        ct.clip(clip, [bare])
    (found,), _, _ = ct.clip(clip, [bare], variables=[tf.Variable(tf.zeros((3, 2)))])
    np.testing.assert_allclose(found.values.numpy(), [[0.6, 0.8]], rtol=1e-6)


def test_what_a_tape_gives_for_a_lookup(way):
    table = tf.Variable(np.random.default_rng(3).normal(size=(6, 5)), name="embeddings", dtype=tf.float32)

    @way
    def step(rows):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.gather(table, rows) ** 2)
        grads = tape.gradient(loss, [table])
        assert isinstance(grads[0], tf.IndexedSlices)
        return ct.clip(clipwise.clip_by_global_norm(0.5), grads, variables=[table])[0]

    (found,) = step(tf.constant(ROWS))
    dense = np.zeros((6, 5))
    np.add.at(dense, ROWS, 2.0 * table.numpy()[ROWS])
    np.testing.assert_allclose(as_dense(found), dense * 0.5 / np.linalg.norm(dense), rtol=1e-6)
