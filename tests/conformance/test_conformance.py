"""The one table, on every back end, against the float64 oracle.

A back end has ``NAME``, ``DTYPES``, ``rounded`` and ``run``, which takes numpy gradients, a clip and a dtype,
and returns the clipped gradients in numpy and the report. To add one: a module here, a line in BACK_ENDS.
"""

import numpy as np
import pytest

from clipwise import Clip
from tests.torch_engines import ENGINES

from . import oracle
from .cases import CLIPS, RANGES, THRESHOLDS, inputs
from .on_torch import OnTorch

BACK_ENDS = [OnTorch(engine) for engine in ENGINES]

# Norms are sums of up to 300,000 terms in float64, in an order that depends on the number of threads; each
# entry is rounded once when stored, and a coefficient once.
RELATIVE = {
    "float64": 1e-11,
    "float32": 3e-7,
    "float16": 2e-3,
    "bfloat16": 1.6e-2,
    "complex64": 3e-7,
    "complex128": 1e-11,
}
# Below the smallest normal number an entry keeps fewer digits.
SMALLEST = {
    "float64": 1e-323,
    "float32": 3e-45,
    "float16": 1.2e-7,
    "bfloat16": 1e-40,
    "complex64": 3e-45,
    "complex128": 1e-323,
}

TABLE = [
    pytest.param(back_end, dtype, per, norm, id=f"{back_end.NAME}-{dtype}-{per}-{norm}")
    for back_end in BACK_ENDS
    for dtype in back_end.DTYPES
    for per, norm in CLIPS
]


def check(back_end, gradients, clip: Clip, dtype: str) -> None:
    # What the back end is given is already rounded to its dtype; the oracle starts from the same values.
    given = back_end.rounded(gradients, dtype)
    expected, norm = oracle.clip(given, clip.per, clip.norm, clip.threshold)
    found, report = back_end.run(given, clip, dtype)
    assert float(report.norm) == pytest.approx(norm, rel=1e-11, abs=1e-323)
    assert set(found) == set(expected)
    for name, value in found.items():
        np.testing.assert_allclose(
            value, expected[name], rtol=RELATIVE[dtype], atol=SMALLEST[dtype], err_msg=name
        )
        assert not np.isnan(value).any()
        same = np.array_equal(oracle.widened(given[name]), expected[name])
        if same:
            np.testing.assert_array_equal(value, oracle.widened(given[name]), err_msg="not to the bit")
    changed = any(not np.array_equal(oracle.widened(given[n]), expected[n]) for n in expected)
    assert bool(report.clipped) == changed
    after = oracle.p_norm(
        np.concatenate([v.ravel() for v in expected.values()] or [np.zeros(0)]),
        2.0 if clip.per == "element" else clip.norm,
    )
    assert float(report.norm_after) == pytest.approx(
        after, rel=max(RELATIVE[dtype] * 2, 1e-11), abs=SMALLEST[dtype] * 1e3
    )


@pytest.mark.parametrize(("back_end", "dtype", "per", "norm"), TABLE)
@pytest.mark.parametrize("threshold", THRESHOLDS)
def test_clip(back_end, dtype, per, norm, threshold):
    for row, gradients in inputs(dtype).items():
        try:
            check(back_end, gradients, Clip(threshold, per=per, norm=norm), dtype)
        except AssertionError as error:
            raise AssertionError(f"{row}: {error}") from error


@pytest.mark.parametrize("bounds", RANGES)
@pytest.mark.parametrize("back_end", BACK_ENDS, ids=lambda b: b.NAME)
@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
def test_range(back_end, dtype, bounds):
    for gradients in inputs(dtype).values():
        # Bounds that the dtype holds exactly, so that the oracle's bound is the back end's.
        exact = tuple(float(back_end.rounded({"b": np.asarray(b)}, dtype)["b"]) for b in bounds)
        check(back_end, gradients, Clip(exact, per="element"), dtype)


@pytest.mark.parametrize(("back_end", "dtype", "per", "norm"), TABLE)
def test_the_result_has_the_threshold_as_its_norm(back_end, dtype, per, norm):
    """For float32, within 1e-6: the promise of the design. Half precision: its own rounding."""
    gradients = back_end.rounded(inputs(dtype)["long"], dtype)
    group = gradients["weight"][0] if per == "unit" else gradients["weight"]
    threshold = 0.01 if per == "element" else oracle.p_norm(group, norm) * 1e-2
    found, _ = back_end.run(gradients, Clip(threshold, per=per, norm=norm), dtype)
    tolerance = {"float32": 1e-6, "float64": 1e-11, "complex64": 1e-6, "complex128": 1e-11}.get(dtype, 4e-3)
    values = found["weight"]
    measured = {
        "element": [float(np.abs(values).max())],
        "unit": [oracle.p_norm(unit, norm) for unit in oracle.units(values)],
        "tensor": [oracle.p_norm(values, norm)],
        "global": [oracle.p_norm(values, norm)],
    }[per]
    np.testing.assert_allclose(measured, threshold, rtol=tolerance)
