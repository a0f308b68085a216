"""TensorFlow."""

from tests.mutations.breaks import Break

BREAKS = [
    Break(
        "slices of one row are not added up",
        "src/clipwise/tensorflow/_sparse.py",
        "tf.math.unsorted_segment_sum(",
        "tf.math.unsorted_segment_max(",
        "tests/tensorflow/test_sparse.py",
    ),
    Break(
        "rows that are not there have no bound",
        "src/clipwise/tensorflow/_sparse.py",
        'return clip.per == "unit"',
        "return False",
        "tests/tensorflow/test_sparse.py",
    ),
]
