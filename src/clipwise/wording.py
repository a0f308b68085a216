"""Numbers, shares, counts and names in the form in which people read them."""

import math
from collections.abc import Sequence


def number(value: float | None, digits: int = 4, *, thousands: str = "") -> str:
    """A number with so many significant digits; in scientific notation only if a plain number would be long.

    Args:
        value: None for an unknown one.
        digits: significant digits of a number below ``10**digits``; a larger one is rounded to a whole
            number.
        thousands: thousands separator: ``""`` for text that is read back, ``","`` in sentences.

    >>> number(2.45831), number(12345.6), number(1e17), number(float("nan")), number(None)
    ('2.458', '12346', '1e+17', 'NaN', '–')
    >>> number(0.23456, 3), number(999.6, 3), number(1234.5, 3, thousands=",")
    ('0.235', '1000', '1,234')
    """
    if value is None:
        return "–"
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    if value and (abs(value) >= 1e6 or abs(value) < 1e-4):
        return f"{value:.3g}"
    if abs(value) >= 10**digits - 0.5:
        return f"{value:{thousands}.0f}"
    return f"{value:.{digits}g}"


def percent(share: float, *, tenths: bool = False) -> str:
    """A share in per cent; never rounded to 0 % or 100 % unless it is exactly that.

    Args:
        share: 0 to 1.
        tenths: two significant digits below ten per cent and three above; otherwise whole per cents.

    >>> percent(0.987), percent(0.0004), percent(0.9999), percent(1.0), percent(0.0)
    ('99 %', '<1 %', '>99 %', '100 %', '0 %')
    >>> percent(0.05, tenths=True), percent(0.0004, tenths=True), percent(0.0123, tenths=True)
    ('5 %', '<0.1 %', '1.2 %')
    """
    if not math.isfinite(share):
        return "–"
    least = 0.1 if tenths else 1
    if 0 < 100 * share < least:
        return f"<{least} %"
    if 100 - least < 100 * share < 100:
        return f">{100 - least} %"
    if tenths:
        return f"{100 * share:.2g} %" if share < 0.1 else f"{100 * share:.3g} %"
    return f"{100 * share:.0f} %"


def counted(count: int, noun: str) -> str:
    """A count with its noun.

    >>> counted(1, "step"), counted(1234, "step")
    ('1 step', '1,234 steps')
    """
    return f"{count:,} {noun}" + "s" * (count != 1)


def duration(seconds: float | None) -> str:
    """Seconds; minutes or hours if it is long.

    >>> duration(4.21), duration(75), duration(7300)
    ('4.2 s', '1 min 15 s', '2 h 1 min')
    """
    if seconds is None or not math.isfinite(seconds):
        return "–"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def join(parts: Sequence[str], last: str = "and") -> str:
    """A list in a sentence.

    >>> join(["a", "b", "c"]), join(["a", "b"], "or")
    ('a, b and c', 'a or b')
    """
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + f" {last} " + parts[-1]


def printable(text: str) -> str:
    r"""A name from a file, without what a terminal would obey.

    >>> printable("loss\x1b[2J")
    'loss\\x1b[2J'
    """
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
