"""Before anything else."""

import contextlib

# torch's compiler imports setuptools, which cannot put its distutils in place any more once pip was imported.
with contextlib.suppress(ImportError):
    import setuptools  # noqa: F401
