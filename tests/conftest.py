"""Before anything else."""

import contextlib

# torch's compiler imports setuptools, which cannot put its distutils in place any more once pip was imported.
with contextlib.suppress(ImportError):
    import setuptools  # noqa: F401

# Triton, which torch's compiler loads, and TensorFlow both bring LLVM; only in this order they get along.
import torch._dynamo  # noqa: F401
