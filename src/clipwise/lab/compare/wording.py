"""Numbers as people read them."""

import math
from collections.abc import Sequence

__all__ = ["duration", "heading", "join", "metric_name", "number", "percent", "value_of"]

NAMES = {"bits": "bits", "f1": "F1", "auc": "AUC", "rmse": "RMSE", "mae": "MAE"}
HEADINGS = {"bits": "Bits per character", "f1": "F1", "auc": "Area under the ROC curve", "rmse": "RMSE"}


def number(value: float | None, digits: int = 4) -> str:
    """Four significant digits, powers of ten only where a plain number would be long.

    >>> number(2.45831), number(0.1), number(1e17), number(float("nan")), number(None)
    ('2.458', '0.1', '1e+17', 'NaN', '–')
    """
    if value is None:
        return "–"
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    if value and (abs(value) >= 1e6 or abs(value) < 1e-4):
        mantissa, exponent = f"{value:.2e}".split("e")
        return f"{float(mantissa):g}e{exponent}"
    if abs(value) >= 10**digits:
        return f"{value:.0f}"
    return f"{value:.{digits}g}"


def percent(share: float) -> str:
    """A share in per cent; never rounded to 0 % or 100 % when it is neither.

    >>> percent(0.987), percent(0.0004), percent(0.9999), percent(1.0), percent(0.0)
    ('99 %', '<1 %', '>99 %', '100 %', '0 %')
    """
    if math.isnan(share) or math.isinf(share):
        return "–"
    if 0 < share < 0.01:
        return "<1 %"
    if 0.99 < share < 1:
        return ">99 %"
    return f"{share * 100:.0f} %"


def duration(seconds: float | None) -> str:
    """Seconds, or minutes and hours where that is long.

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


def metric_name(metric: str) -> str:
    """How a metric is written in a table."""
    return NAMES.get(metric, metric.replace("_", " "))


def heading(metric: str) -> str:
    """A metric as the title of a picture."""
    return HEADINGS.get(metric, metric_name(metric))


def value_of(metric: str, value: float) -> str:
    """A metric with its value.

    >>> value_of("bits", 2.4583), value_of("f1", 0.5)
    ('2.458 bits', 'F1 0.5')
    """
    if metric == "bits":
        return f"{number(value)} bits"
    return f"{metric_name(metric)} {number(value)}"


def join(parts: Sequence[str]) -> str:
    """A list in a sentence.

    >>> join(["a", "b", "c"])
    'a, b and c'
    """
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]
