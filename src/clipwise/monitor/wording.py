"""Numbers and names as sentences and tables show them."""

import math
from functools import partial

from clipwise import wording

number = partial(wording.number, digits=3, thousands=",")
percent = partial(wording.percent, tenths=True)


def show(value: float) -> str:
    """A number with four digits; NaN and Inf are written as words.

    >>> show(1234567.0), show(0.00012346), show(float("-inf"))
    ('1.235e+06', '0.0001235', '-Inf')
    """
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "Inf" if value > 0 else "-Inf"
    return f"{value:.4g}"


def times(factor: float) -> str:
    """How many times larger one thing is than another.

    >>> times(12.3), times(2.51), times(5e7)
    ('12 times', '2.5 times', '5e+07 times')
    """
    if factor < 10:
        return f"{factor:.1f} times"
    return f"{factor:,.0f} times" if factor < 1e6 else f"{factor:.0e} times"


def of(source: str) -> str:
    """The source of a value, if it has a name.

    >>> of(""), of("critic")
    ('', ' of critic')
    """
    return f" of {source}" if source else ""
