"""Before anything else."""

import contextlib
import gc

# torch's compiler imports setuptools, which cannot put its distutils in place any more once pip was imported.
with contextlib.suppress(ImportError):
    import setuptools  # noqa: F401

# Triton, which torch's compiler loads, and TensorFlow both bring LLVM; only in this order they get along.
import torch._dynamo  # noqa: F401

LONG = ("test_the_table[", "tests/keras/test_backends.py", "test_on_eight_devices")


def pytest_collection_modifyitems(items):
    """Two processes share the tests, each beginning with one half of them: there the long ones come first."""
    long, others = [], []
    for item in items:
        (long if any(part in item.nodeid for part in LONG) else others).append(item)
    middle = len(others) // 2
    items[:] = [*long[::2], *others[:middle], *long[1::2], *others[middle:]]


def pytest_collection_finish():
    """The frameworks' million objects stay as long as the process: no collection need look at them again."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure():
    gc.unfreeze()
