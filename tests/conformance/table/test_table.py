"""The one table, on every back end, against the float64 oracle.

A back end has ``DTYPES``, ``NORMS`` (how exact its norms are, by dtype, where not in float64),
``rounded``, and ``run``, which takes rows of numpy gradients by name, a clip and a dtype, and returns for
each row the clipped gradients in numpy and the report; and, if it runs a part of the table only, ``CLIPS``,
``THRESHOLDS``, ``RANGES``, ``ROWS``, and how dtypes, clips and thresholds are ``COMBINED``. To add one: a
module here, a line in back_ends.py.
"""

from functools import cache

import numpy as np
import pytest

from clipwise import Clip
from tests.conformance import back_ends
from tests.depth import pairwise

from . import oracle
from .cases import CLIPS, RANGES, THRESHOLDS, inputs

BACK_ENDS = [back_ends.make(name) for name in back_ends.here()]

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
    (back_end, dtype, per, norm, threshold)
    for back_end in BACK_ENDS
    for dtype, (per, norm), threshold in getattr(back_end, "COMBINED", pairwise)(
        back_end.DTYPES, getattr(back_end, "CLIPS", CLIPS), getattr(back_end, "THRESHOLDS", THRESHOLDS)
    )
]


def each(arguments: str, cases):
    """The test on each case, whose first part is the back end."""
    named = [
        pytest.param(back_end, *rest, id="-".join(map(str, (back_end.name, *rest))))
        for back_end, *rest in cases
    ]
    return pytest.mark.parametrize(f"back_end, {arguments}", named)


@cache
def given_to(back_end, dtype: str):
    """Rounded to the dtype already: the oracle starts from the same values."""
    rows = inputs(dtype, getattr(back_end, "ROWS", None))
    return {row: back_end.rounded(gradients, dtype) for row, gradients in rows.items()}


def check(back_end, clip: Clip, dtype: str) -> None:
    given = given_to(back_end, dtype)
    found = back_end.run(given, clip, dtype)
    assert found
    for row, (clipped, report) in found.items():
        try:
            compare(given[row], clipped, report, clip, dtype, back_end.NORMS.get(dtype, 1e-11))
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


@each("dtype, per, norm, threshold", TABLE)
def test_clip(back_end, dtype, per, norm, threshold):
    check(back_end, Clip(threshold, per=per, norm=norm), dtype)


@each(
    "dtype, bounds",
    [
        (back_end, dtype, bounds)
        for back_end in BACK_ENDS
        for dtype in back_end.DTYPES
        if not dtype.startswith("complex")
        for bounds in getattr(back_end, "RANGES", RANGES)
    ],
)
def test_range(back_end, dtype, bounds):
    # Bounds that the dtype holds exactly, so that the oracle's bound is the back end's.
    exact = tuple(float(back_end.rounded({"b": np.asarray(b)}, dtype)["b"]) for b in bounds)
    check(back_end, Clip(exact, per="element"), dtype)


@each("dtype, per, norm", dict.fromkeys(case[:-1] for case in TABLE))
def test_the_result_has_the_threshold_as_its_norm(back_end, dtype, per, norm):
    """For float32, within 1e-6: the promise of the design. Half precision: its own rounding."""
    gradients = back_end.rounded(inputs(dtype)["long"], dtype)
    group = gradients["weight"][0] if per == "unit" else gradients["weight"]
    threshold = 0.01 if per == "element" else oracle.p_norm(group, norm) * 1e-2
    found, _ = back_end.run({"long": gradients}, Clip(threshold, per=per, norm=norm), dtype)["long"]
    tolerance = {"float32": 1e-6, "float64": 1e-11, "complex64": 1e-6, "complex128": 1e-11}.get(dtype, 4e-3)
    values = found["weight"]
    measured = {
        "element": [float(np.abs(values).max())],
        "unit": [oracle.p_norm(unit, norm) for unit in oracle.units(values)],
        "tensor": [oracle.p_norm(values, norm)],
        "global": [oracle.p_norm(values, norm)],
    }[per]
    np.testing.assert_allclose(measured, threshold, rtol=tolerance)
