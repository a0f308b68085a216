"""What pyproject.toml cannot say: the optional extension module.

Where it cannot be compiled, the installation goes on without it, and clipwise.torch uses torch's own
operations.
"""

import platform
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

FOLDER = "src/clipwise/torch/engines"
HEADERS = ["_half", "_kernels", "_level", "_levels", "_parallel", "_table", "_tasks", "_tensors", "_vectors"]

UNIX = ["-std=gnu11", "-O3", "-g0", "-fno-strict-aliasing", "-Wno-psabi"]

cpython = platform.python_implementation() == "CPython"
# Free-threaded CPython has no limited API up to 3.14, so a wheel for it is for one version only.
limited = cpython and not sysconfig.get_config_var("Py_GIL_DISABLED")

native = Extension(
    "clipwise.torch.engines._native",
    [f"{FOLDER}/_native.c"],
    depends=[f"{FOLDER}/{name}.h" for name in HEADERS],
    define_macros=[("Py_LIMITED_API", "0x030B0000")] if limited else [],
    # Tensors' memory is looked at through several types: floats and their bits.
    extra_compile_args=["/O2"] if sys.platform == "win32" else UNIX,
    libraries=[] if sys.platform == "win32" else ["m", "pthread", "dl"],
    py_limited_api=limited,
    optional=True,
)


class build_native(build_ext):
    """Says in the end whether there is a native engine; `pip install -v` shows it."""

    def run(self):
        super().run()
        built = all(Path(self.get_ext_fullpath(extension.name)).is_file() for extension in self.extensions)
        what = (
            "is built" if built else "is not built, as for want of a C compiler; torch's operations are used"
        )
        print(f"clipwise: the native engine {what}. clipwise.torch.engine() tells which is in use.")


setup(
    cmdclass={"build_ext": build_native},
    ext_modules=[native] if cpython else [],
    exclude_package_data={"": ["*.c", "*.h"]},
    options={"bdist_wheel": {"py_limited_api": "cp311"}} if limited else {},
)
