"""TensorFlow on the CPU, quietly, and the three ways in which a step can run."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import pytest

tf = pytest.importorskip("tensorflow")

WAYS = {
    "eager": lambda function: function,
    "function": tf.function,  # with AutoGraph, as people write it
    "xla": lambda function: tf.function(function, jit_compile=True),
}


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest):
    """What makes a step of a Python function."""
    return WAYS[request.param]
