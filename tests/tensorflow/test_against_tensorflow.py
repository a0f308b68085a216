"""TensorFlow's own functions on ordinary inputs, and where we differ on purpose: the table in the docs."""

import numpy as np
import pytest
import tensorflow as tf

import clipwise
import clipwise.tensorflow as ct
from clipwise.errors import ThresholdError

X = tf.constant(np.random.default_rng(0).normal(size=(30, 5)), tf.float32)


def by_norm(x, threshold):
    return ct.clip(clipwise.clip_by_norm(threshold), [x])[0][0].numpy()


def by_global_norm(x, threshold):
    return ct.clip(clipwise.clip_by_global_norm(threshold), x)[0]


@pytest.mark.parametrize("threshold", [0.5, 3.0, 1e4])
def test_ordinary_gradients(threshold):
    (value,), _, _ = ct.clip(clipwise.clip_by_value(threshold), [X])
    np.testing.assert_array_equal(value.numpy(), tf.clip_by_value(X, -threshold, threshold).numpy())
    np.testing.assert_allclose(by_norm(X, threshold), tf.clip_by_norm(X, threshold).numpy(), rtol=1e-6)
    theirs, norm = tf.clip_by_global_norm([X, None, 2 * X], threshold)
    ours, _, report = ct.clip(clipwise.clip_by_global_norm(threshold), [X, None, 2 * X])
    assert float(report.norm) == pytest.approx(float(norm), rel=1e-6)
    assert ours[1] is theirs[1] is None
    for mine, other in zip(ours[::2], theirs[::2], strict=True):
        np.testing.assert_allclose(mine.numpy(), other.numpy(), rtol=1e-6)


def test_the_average_norm_is_a_threshold_times_the_root_of_the_size_for_equal_entries():
    """`tf.compat.v1.clip_by_average_norm` divides the norm by the number of entries, not by its root."""
    threshold = 0.01
    theirs = tf.compat.v1.clip_by_average_norm(X, threshold).numpy()
    np.testing.assert_allclose(by_norm(X, threshold * X.shape.num_elements()), theirs, rtol=1e-6)


def test_squares_beyond_float32():
    """TensorFlow: the norm is Inf; by norm all becomes 0, by global norm NaN."""
    big = tf.constant([3e20, 4e20])
    assert tf.clip_by_norm(big, 1.0).numpy().tolist() == [0.0, 0.0]
    assert np.isnan(tf.clip_by_global_norm([big], 1.0)[0][0].numpy()).all()
    np.testing.assert_allclose(by_norm(big, 1.0), [0.6, 0.8], rtol=1e-6)
    np.testing.assert_allclose(by_global_norm([big], 1.0)[0].numpy(), [0.6, 0.8], rtol=1e-6)


def test_norms_beyond_float16():
    half = tf.constant([3e4, 4e4], tf.float16)
    assert tf.clip_by_norm(half, 1.0).numpy().tolist() == [0.0, 0.0]
    np.testing.assert_allclose(by_norm(half, 1.0), [0.6, 0.8], rtol=1e-3)
    assert np.isnan(tf.clip_by_global_norm([half], 1.0)[0][0].numpy()).all()
    np.testing.assert_allclose(by_global_norm([half], 1.0)[0].numpy(), [0.6, 0.8], rtol=1e-3)


def test_squares_below_float32():
    """TensorFlow: by norm all becomes 0, by global norm nothing is clipped."""
    tiny = tf.constant([3e-25, 4e-25])
    assert tf.clip_by_norm(tiny, 1e-30).numpy().tolist() == [0.0, 0.0]
    assert tf.clip_by_global_norm([tiny], 1e-30)[0][0].numpy().tolist() == tiny.numpy().tolist()
    np.testing.assert_allclose(by_norm(tiny, 1e-30), [6e-31, 8e-31], rtol=1e-6)
    np.testing.assert_allclose(by_global_norm([tiny], 1e-30)[0].numpy(), [6e-31, 8e-31], rtol=1e-6)


def test_a_threshold_of_zero():
    """TensorFlow: 0 / 0 for a gradient of zeros."""
    assert np.isnan(tf.clip_by_norm(tf.zeros(2), 0.0).numpy()).all()
    assert np.isnan(tf.clip_by_global_norm([tf.zeros(2)], 0.0)[0][0].numpy()).all()
    assert by_norm(tf.zeros(2), 0.0).tolist() == [0.0, 0.0]
    assert by_global_norm([tf.zeros(2)], 0.0)[0].numpy().tolist() == [0.0, 0.0]
    assert not by_global_norm([X], 0.0)[0].numpy().any()
    assert not by_norm(X, 0.0).any()


def test_a_negative_threshold():
    """TensorFlow: by norm it counts as 0, by global norm nothing is clipped."""
    x = tf.constant([3.0, 4.0])
    assert tf.clip_by_norm(x, -1.0).numpy().tolist() == [0.0, 0.0]
    assert tf.clip_by_global_norm([x], -1.0)[0][0].numpy().tolist() == [3.0, 4.0]
    with pytest.raises(ThresholdError, match="-1"):
        clipwise.clip_by_norm(-1.0)


def test_inf_and_nan():
    for bad in (np.inf, np.nan):
        given = [tf.constant([bad, 1.0]), tf.constant([1.0])]
        theirs, _ = tf.clip_by_global_norm(given, 1.0)
        assert all(np.isnan(x.numpy()).all() for x in theirs)
        skipped, _, report = ct.clip(clipwise.clip_by_global_norm(1.0), given, nonfinite="skip")
        assert not any(x.numpy().any() for x in skipped)
        assert bool(report.skipped)
    ours = by_global_norm([tf.constant([np.inf, 1.0]), tf.constant([1.0])], 1.0)
    assert np.isnan(ours[0].numpy()[0])
    assert [ours[0].numpy()[1], ours[1].numpy()[0]] == [0.0, 0.0]
    ours = by_global_norm([tf.constant([np.nan, 1.0]), tf.constant([1.0])], 1.0)
    assert all(np.isnan(x.numpy()).all() for x in ours)


def test_several_slices_of_one_row():
    """TensorFlow measures the slices as they come: two of one row as if they were two rows."""
    twice = tf.IndexedSlices(tf.constant([[3.0], [4.0]]), tf.constant([1, 1]), tf.constant([2, 1]))
    assert float(tf.clip_by_global_norm([twice], 1.0)[1]) == 5.0
    _, _, report = ct.clip(clipwise.clip_by_global_norm(1.0), [twice])
    assert float(report.norm) == 7.0
