"""Numbers as they are given: what is taken, as what, and the words for what is not."""

import math
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest

from clipwise import checks
from clipwise.errors import ArgumentError, ThresholdError


@pytest.mark.parametrize("given", [1, 1.0, np.float16(1), np.int8(1), np.float64(1), Fraction(1)])
def test_numbers_of_every_kind_become_plain(given):
    for check in (checks.number, checks.positive, checks.check_number):
        found = check("x", given)
        assert type(found) is float
        assert found == 1.0
    assert checks.number_where("x", given, lambda x: x > 0, "above 0") == 1.0


@pytest.mark.parametrize("given", [None, "1", True, np.bool_(True), 1j, [1.0], Decimal(1), math.nan])
def test_what_is_no_number(given):
    for check in (checks.number, checks.positive):
        with pytest.raises(ArgumentError, match=r"^x must be a number, got "):
            check("x", given)
    with pytest.raises(ArgumentError, match=r"^x must be within a day, got "):
        checks.number_where("x", given, lambda x: 0 <= x < 24, "within a day")


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: checks.positive("x", 0), "x must be a number above 0, got 0"),
        (lambda: checks.positive("x", math.inf, finite=True), "x must be a finite number above 0, got inf"),
        (lambda: checks.fraction("x", 1), "x must be at least 0 and below 1, got 1"),
        (lambda: checks.fraction("x", False), "x must be at least 0 and below 1, got False"),
        (lambda: checks.whole("x", 0), "x must be a whole number of at least 1, got 0"),
        (lambda: checks.whole("x", 2.0), "x must be a whole number of at least 1, got 2.0"),
        (lambda: checks.whole("x", True, allowed="a count"), "x must be a count, got True"),
        (lambda: checks.whole("x", 9, high=8, allowed="at most 8"), "x must be at most 8, got 9"),
        (lambda: checks.bounds_of(1, 1), "low must be below high, got low=1 and high=1"),
        (lambda: checks.bounds_of(math.nan, 1), "low must be a number, got nan"),
    ],
)
def test_words(call, words):
    with pytest.raises(ArgumentError) as caught:
        call()
    assert str(caught.value) == words


def test_ends_that_are_allowed():
    assert checks.positive("x", math.inf) == math.inf
    assert checks.fraction("x", 0) == 0.0
    assert checks.whole("x", np.int64(8), low=0, high=8) == 8
    assert type(checks.whole("x", np.int64(8))) is int
    assert checks.bounds_of(-math.inf, 0) == (-math.inf, 0.0)


@pytest.mark.parametrize("given", [True, np.bool_(False), "1", b"1", np.complex128(1), None, math.nan, -1])
def test_thresholds_have_an_error_of_their_own(given):
    with pytest.raises(ThresholdError, match=r"^max must be "):
        checks.check_number("max", given)
    assert checks.check_number("max", np.array(2.0)) == 2.0
