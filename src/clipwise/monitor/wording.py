"""Numbers and names as sentences and tables show them."""

import math


def show(value: float) -> str:
    """Four digits; NaN and Inf as people write them.

    >>> show(1234567.0), show(0.00012346), show(float("-inf"))
    ('1.235e+06', '0.0001235', '-Inf')
    """
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "Inf" if value > 0 else "-Inf"
    return f"{value:.4g}"


def times(factor: float) -> str:
    """How many times something is something else.

    >>> times(12.3), times(2.51), times(5e7)
    ('12 times', '2.5 times', '5e+07 times')
    """
    if factor < 10:
        return f"{factor:.1f} times"
    return f"{factor:,.0f} times" if factor < 1e6 else f"{factor:.0e} times"


def of(source: str) -> str:
    """The source of a value, where it has one.

    >>> of(""), of("critic")
    ('', ' of critic')
    """
    return f" of {source}" if source else ""


def number(value: float | None) -> str:
    """Three significant digits.

    >>> number(0.23456), number(999.6), number(1234.5), number(2.6e21), number(None)
    ('0.235', '1,000', '1,234', '2.6e+21', '–')
    """
    if value is None:
        return "–"
    if value and math.isfinite(value) and (abs(value) >= 1e6 or abs(value) < 1e-4):
        return f"{value:.3g}"
    return f"{value:,.0f}" if 999.5 <= abs(value) < math.inf else f"{value:.3g}"


def percent(share: float) -> str:
    """A share; never 0 % or 100 % when it is neither.

    >>> percent(0.05), percent(0.0004), percent(0.0123), percent(0.0)
    ('5 %', '<0.1 %', '1.2 %', '0 %')
    """
    if 0 < share < 0.001:
        return "<0.1 %"
    if 0.999 < share < 1:
        return ">99.9 %"
    return f"{100 * share:.2g} %" if share < 0.1 else f"{100 * share:.3g} %"


def printable(text: str) -> str:
    """A name from a file, without what a terminal would obey.

    >>> printable("loss\\x1b[2J")
    'loss\\\\x1b[2J'
    """
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def counted(count: int, noun: str) -> str:
    """How many of something.

    >>> counted(1, "step"), counted(3000, "norm")
    ('1 step', '3,000 norms')
    """
    return f"{count:,} {noun}" + "s" * (count != 1)
