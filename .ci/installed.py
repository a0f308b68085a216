"""Whether an installed clipwise works with PyTorch: one clip against numpy in float64.

    python .ci/installed.py             # with whichever engine there is
    python .ci/installed.py native      # which must be the compiled one

Run it outside the sources, with the Python in whose environment clipwise and PyTorch are.
"""

import platform
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

import clipwise

THRESHOLD = 1.0
SHAPES = [(1000, 301), (7,), (3, 5, 2), ()]
# Half the spacing of a dtype's numbers near 1.
ROUNDING = {torch.float32: 2**-24, torch.float64: 2**-53, torch.float16: 2**-11, torch.bfloat16: 2**-8}


def clipped_as_numpy(dtype: torch.dtype, seed: int) -> None:
    """Clip random gradients by their global norm, and compare norm and entries."""
    generator = torch.Generator().manual_seed(seed)
    parameters = [torch.nn.Parameter(torch.zeros(shape, dtype=dtype)) for shape in SHAPES]
    for parameter in parameters:
        parameter.grad = torch.randn(parameter.shape, generator=generator, dtype=torch.float64).to(dtype)
    before = [p.grad.to(torch.float64).numpy().copy() for p in parameters]
    norm = np.sqrt(sum(np.square(array).sum() for array in before))
    report = clipwise.torch.clip_(parameters, clipwise.clip_by_global_norm(THRESHOLD))
    np.testing.assert_allclose(float(report.norm), norm, rtol=1e-6)
    for parameter, array in zip(parameters, before, strict=True):
        expected = array * (THRESHOLD / norm)
        # Beyond rounding: the smallest number of float16, and float32 coefficients.
        np.testing.assert_allclose(
            parameter.grad.to(torch.float64).numpy(), expected, rtol=2 * ROUNDING[dtype] + 1e-9, atol=6e-8
        )


def widest_vectors() -> str:
    """The vector width that Linux says this processor has; "" where it does not say."""
    info = Path("/proc/cpuinfo")
    if platform.machine() != "x86_64" or not info.exists():
        return ""
    flags = {*re.search(r"^flags\s*:(.*)$", info.read_text(), re.MULTILINE)[1].split()}
    if not flags >= {"avx2", "fma", "f16c"}:
        return "baseline"
    return "avx512" if flags >= {"avx512f", "avx512vl", "avx512bw", "avx512dq"} else "avx2"


def main(wanted: str = "") -> None:
    engine = clipwise.torch.engine()
    assert engine.startswith(wanted), f"the engine must be {wanted!r}, and is {engine!r}"
    if engine.startswith("native"):
        assert engine.endswith(widest_vectors()), f"{engine!r} on a processor with {widest_vectors()}"
    assert version("clipwise") == clipwise.__version__, (version("clipwise"), clipwise.__version__)
    for dtype in ROUNDING:
        clipped_as_numpy(dtype, seed=0)
    with ThreadPoolExecutor(4) as pool:  # at once, as free-threaded Python allows
        list(pool.map(clipped_as_numpy, [*ROUNDING] * 8, range(32)))
    gil = getattr(sys, "_is_gil_enabled", lambda: True)()
    print(
        f"clipwise {clipwise.__version__} from {clipwise.__file__}: engine {engine}, as numpy,"
        f" on Python {sys.version.split()[0]}{'' if gil else ' without a GIL'}, torch {torch.__version__}"
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
