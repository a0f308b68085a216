"""Bounds of columns."""

from tests.mutations.breaks import Break

BREAKS = [
    Break(
        "Tukey's upper fence from the lower quartile",
        "src/clipwise/data/_rule.py",
        "low, high = first - reach, second + reach",
        "low, high = first - reach, first + reach",
        "tests/data/test_clipper.py -k bounds",
    ),
    Break(
        "a bound of whole numbers rounded outwards",
        "src/clipwise/data/_bounds.py",
        "math.ceil(lower)",
        "math.floor(lower)",
        "tests/data/test_frames.py tests/data/test_file_types.py src/clipwise/data/_bounds.py",
    ),
    Break(
        "a value at the bound counts as clipped",
        "src/clipwise/data/_statistics.py",
        "int((column < low).sum())",
        "int((column <= low).sum())",
        "tests/data/test_clipper.py -k report",
    ),
    Break(
        "a NaN is above every bound",
        "src/clipwise/data/_expressions.py",
        "return outside & ~value.is_nan() if dtype.is_float() else outside",
        "return outside",
        "tests/data/test_frames.py",
    ),
    Break(
        "a quantile of weights off by one",
        "src/clipwise/data/_statistics.py",
        "float(ends[-1] - 1)",
        "float(ends[-1])",
        "tests/data/test_clipper.py -k batches",
    ),
]
