"""The one table, on every back end, against the float64 oracle.

A back end has ``DTYPES``, ``NORMS`` (how exact its norms are, by dtype, where not in float64),
``rounded``, and ``run``, which takes rows of numpy gradients by name, a clip and a dtype, and returns for
each row the clipped gradients in numpy and the report; and, if it runs a part of the table only, ``CLIPS``,
``THRESHOLDS``, ``RANGES`` and ``ROWS``. To add one: a module here, a line in back_ends.py.
"""

import numpy as np
import pytest

from clipwise import Clip
from tests.conformance import back_ends

from . import oracle
from .cases import CLIPS, RANGES, THRESHOLDS, inputs

BACK_END = back_ends.make(back_ends.here() or "torch-reference")
ROWS = getattr(BACK_END, "ROWS", None)

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
    pytest.param(dtype, per, norm, id=f"{dtype}-{per}-{norm}")
    for dtype in BACK_END.DTYPES
    for per, norm in getattr(BACK_END, "CLIPS", CLIPS)
]


def check(rows, clip: Clip, dtype: str) -> None:
    # What the back end is given is already rounded to its dtype; the oracle starts from the same values.
    given = {row: BACK_END.rounded(gradients, dtype) for row, gradients in rows.items()}
    found = BACK_END.run(given, clip, dtype)
    assert found
    for row, (clipped, report) in found.items():
        try:
            compare(given[row], clipped, report, clip, dtype, BACK_END.NORMS.get(dtype, 1e-11))
        except AssertionError as error:
            raise AssertionError(f"{row}: {error}") from error


def compare(given, found, report, clip: Clip, dtype: str, exact: float) -> None:
    expected, norm = oracle.clip(given, clip.per, clip.norm, clip.threshold)
    assert float(report.norm) == pytest.approx(norm, rel=exact, abs=SMALLEST["float64"])
    assert set(found) == set(expected)
    for name, value in found.items():
        np.testing.assert_allclose(
            value, expected[name], rtol=max(RELATIVE[dtype], exact), atol=SMALLEST[dtype], err_msg=name
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
        after, rel=max(RELATIVE[dtype] * 2, exact * 2, 1e-11), abs=SMALLEST[dtype] * 1e3
    )


@pytest.mark.parametrize(("dtype", "per", "norm"), TABLE)
@pytest.mark.parametrize("threshold", getattr(BACK_END, "THRESHOLDS", THRESHOLDS))
def test_clip(dtype, per, norm, threshold):
    check(inputs(dtype, ROWS), Clip(threshold, per=per, norm=norm), dtype)


@pytest.mark.parametrize("bounds", getattr(BACK_END, "RANGES", RANGES))
@pytest.mark.parametrize("dtype", [name for name in BACK_END.DTYPES if not name.startswith("complex")])
def test_range(dtype, bounds):
    # Bounds that the dtype holds exactly, so that the oracle's bound is the back end's.
    exact = tuple(float(BACK_END.rounded({"b": np.asarray(b)}, dtype)["b"]) for b in bounds)
    check(inputs(dtype, ROWS), Clip(exact, per="element"), dtype)


@pytest.mark.parametrize(("dtype", "per", "norm"), TABLE)
def test_the_result_has_the_threshold_as_its_norm(dtype, per, norm):
    """For float32, within 1e-6: the promise of the design. Half precision: its own rounding."""
    gradients = BACK_END.rounded(inputs(dtype)["long"], dtype)
    group = gradients["weight"][0] if per == "unit" else gradients["weight"]
    threshold = 0.01 if per == "element" else oracle.p_norm(group, norm) * 1e-2
    found, _ = BACK_END.run({"long": gradients}, Clip(threshold, per=per, norm=norm), dtype)["long"]
    tolerance = {"float32": 1e-6, "float64": 1e-11, "complex64": 1e-6, "complex128": 1e-11}.get(dtype, 4e-3)
    values = found["weight"]
    measured = {
        "element": [float(np.abs(values).max())],
        "unit": [oracle.p_norm(unit, norm) for unit in oracle.units(values)],
        "tensor": [oracle.p_norm(values, norm)],
        "global": [oracle.p_norm(values, norm)],
    }[per]
    np.testing.assert_allclose(measured, threshold, rtol=tolerance)
