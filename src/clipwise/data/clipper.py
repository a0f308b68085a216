"""A scikit-learn transformer that clips each column to given or learned bounds."""

import copy
import json
from collections.abc import Collection, Sequence
from typing import Any, Literal

import numpy as np
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
from sklearn.utils.validation import FLOAT_DTYPES, check_is_fitted, validate_data

from clipwise.data._bounds import Bounds, finite_or_none, float_bounds
from clipwise.data._column_sketch import ColumnSketch
from clipwise.data._non_numeric import non_numeric_value, temporal_column
from clipwise.data._report import ClippingReport, ColumnReport
from clipwise.data._rule import BoundsRule, Given, Method, Side, bounds_rule
from clipwise.data._single_value import single_value, warn_of_single_value
from clipwise.data._statistics import RANK_ERROR, Values, array_report, array_statistics, sketch_size
from clipwise.data._table import refuse_empty
from clipwise.errors import ArgumentError, did_you_mean
from clipwise.stack import warn

__all__ = ["Clipper"]


class Clipper(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Clip outliers to a bound, column by column: ``x <- min(max(x, low), high)``.

    ==============  =================================================  ========================
    ``method``      bounds                                             arguments
    ==============  =================================================  ========================
    ``given``       low and high                                       a number, one a column, or by name
    ``quantiles``   the quantiles low and high, linear as numpy's      0.01 and 0.99
    ``iqr``         ``q25 - f (q75 - q25)``, ``q75 + f (q75 - q25)``   ``factor`` f, 1.5
    ``mad``         ``median -+ f * 1.4826 * median(|x - median|)``    ``factor`` f, 3
    ``deviations``  ``mean -+ f * population standard deviation``      ``factor`` f, 3
    ==============  =================================================  ========================

    Bounds are learned from finite values only; infinite values are clipped like any others. float32 stays
    float32, with the nearest bound of that type; integers become float64.

    ``fit`` takes all data at once and is exact. ``partial_fit`` takes batches and keeps a KLL sketch per
    column (Karnin, Lang and Liberty 2016, arXiv:1603.05346), in bounded memory. The sketch is exact until it
    is full. After that, the rank of a quantile is off by at most ``rank_error`` with 99 % confidence (for the
    median absolute deviation: twice that), and bounds differ between runs by as much; ``to_json`` stores what
    was learned. Mean and deviation need no sketch and equal those of ``fit`` up to rounding.

    Args:
        method: see the table.
        low, high: for ``given``, the bounds: a number, a list in the order of ``columns``, or a mapping by
            column; None for no bound on that side. For ``quantiles``, two numbers in [0, 1].
        factor: for the last three methods, above 0.
        side: ``"both"``, or the only side to clip, ``"low"`` or ``"high"``.
        columns: names or positions of the columns to clip; None for all.
        nan: ``"keep"`` leaves NaN unchanged, ``"error"`` raises for NaN and infinity.
        rank_error: accuracy of the sketches of ``partial_fit``, from 4.8e-5 to 0.5.

    Attributes:
        lower_, upper_: ``(F,)`` the bounds; -inf and inf for no bound.
        bounds_: the bounds by column name, for `clipwise.data.clip`.
        report_: a `ClippingReport`: how many of the fitted values lie outside on each side.
        rank_error_: the rank error of the quantiles, 0 if they are exact.

    Raises:
        ArgumentError: an argument is not allowed, low is above high, a column is empty or holds text. It is
            raised by ``fit``, as is usual in scikit-learn.

    >>> clipper = Clipper("iqr").fit([[1.0], [2.0], [3.0], [4.0], [100.0]])
    >>> clipper.transform([[-9.0], [2.5], [float("nan")], [50.0]]).ravel()
    array([-1. ,  2.5,  nan,  7. ])
    >>> print(clipper.report_)
    x0: [-1, 7] of [1, 100] clips 0 below (0.00%) and 1 above (20.00%) of 5
    """

    _sketches: list[ColumnSketch]

    def __init__(
        self,
        method: Method = "quantiles",
        *,
        low: Given = None,
        high: Given = None,
        factor: float | None = None,
        side: Side = "both",
        columns: Sequence[str | int] | None = None,
        nan: Literal["keep", "error"] = "keep",
        rank_error: float = RANK_ERROR,
    ) -> None:
        self.method = method
        self.low = low
        self.high = high
        self.factor = factor
        self.side = side
        self.columns = columns
        self.nan = nan
        self.rank_error = rank_error

    def fit(self, X: Any, y: Any = None) -> "Clipper":
        """Learn the bounds of ``(N, F)`` data exactly. What was learned before is discarded."""
        rule = self._rule()
        array = self._array(X, reset=True)
        self.__dict__.pop("_sketches", None)
        names = self._names()
        chosen = self._chosen(names)
        if rule.method == "given":
            pairs = rule.given([names[i] for i in chosen])
        else:
            for i in chosen:
                refuse_empty(names[i], int(np.isfinite(array[:, i]).sum()))
            pairs = [rule.interval(names[i], *array_statistics(rule, array[:, i])) for i in chosen]
        lower, upper = self._spread(chosen, pairs)
        low, high = self._in_type(array.dtype, lower, upper)
        rows = tuple(array_report(names[i], array[:, i], low[i], high[i]) for i in chosen)
        self.lower_, self.upper_ = lower, upper
        self.report_, self.rank_error_ = ClippingReport(rows), 0.0
        self._warn_of_single_values()
        return self

    def partial_fit(self, X: Any, y: Any = None) -> "Clipper":
        """Learn from one more batch ``(N, F)``; the bounds are those of all batches so far.

        After ``fit`` or ``from_json``, which keep no data, it starts again and warns.
        """
        rule = self._rule()
        first = not hasattr(self, "_sketches")
        if first and hasattr(self, "lower_"):
            warn(
                "this Clipper was fitted with fit, or read from JSON, and holds only bounds: partial_fit"
                " starts from the beginning"
            )
        size = sketch_size(self.rank_error)
        array = self._array(X, reset=first)
        chosen = self._chosen(self._names())
        # Into copies, so that a batch that is refused leaves no trace.
        sketches = [ColumnSketch(size) for _ in chosen] if first else copy.deepcopy(self._sketches)
        for i, sketch in zip(chosen, sketches, strict=True):
            sketch.update(array[:, i])
        return self._learn(rule, sketches, first=first)

    def merge(self, *others: "Clipper") -> "Clipper":
        """Add what others have learned from their batches, as if all batches had been given to this one.

        For data on several machines: each learns from its part with ``partial_fit``, the Clippers are pickled
        and sent to one place, and are merged there in any order.

        Args:
            others: Clippers fitted by ``partial_fit`` with the same arguments and columns; not changed.

        Returns:
            This Clipper.

        Raises:
            ArgumentError: one of them, or this one, was not fitted that way. Nothing is changed.

        >>> parts = [Clipper("iqr").partial_fit(np.arange(i, 100.0, 4)[:, None]) for i in range(4)]
        >>> parts[3].merge(parts[0], parts[2], parts[1]).bounds_ == Clipper("iqr").fit(
        ...     np.arange(100.0)[:, None]
        ... ).bounds_
        True
        """
        rule = self._rule()
        for one in (self, *others):
            if not isinstance(one, Clipper) or not hasattr(one, "_sketches"):
                raise ArgumentError(
                    f"merge takes Clippers that were fitted by partial_fit, got {one!r} without sketches"
                )
            mine, theirs = (_plain(each.get_params(deep=False)) for each in (self, one))
            if mine != theirs:
                name = next(name for name in mine if mine[name] != theirs[name])
                raise ArgumentError(
                    f"merge: one Clipper has {name}={theirs[name]!r}, this one {mine[name]!r}"
                )
            if one._names() != self._names():
                raise ArgumentError(
                    f"merge: one Clipper has the columns {one._names()}, this one {self._names()}"
                )
        sketches = copy.deepcopy(self._sketches)
        for other in others:
            for sketch, own in zip(sketches, other._sketches, strict=True):
                sketch.merge(own)
        return self._learn(rule, sketches, first=False)

    def _learn(self, rule: BoundsRule, sketches: list[ColumnSketch], *, first: bool) -> "Clipper":
        """Take the bounds from these sketches, of the columns that are clipped."""
        names = self._names()
        chosen = self._chosen(names)
        pairs = rule.given([names[i] for i in chosen]) if rule.method == "given" else []
        if rule.method != "given":
            for i, sketch in zip(chosen, sketches, strict=True):
                refuse_empty(names[i], sketch.finite)
            pairs = [
                rule.interval(names[i], *sketch.statistics(rule))
                for i, sketch in zip(chosen, sketches, strict=True)
            ]
        warned = set() if first else {one.column for one in self.report_ if _leaves_one(one)}
        self._sketches = sketches
        self.lower_, self.upper_ = self._spread(chosen, pairs)
        self.rank_error_ = max((sketch.rank_error for sketch in sketches), default=0.0)
        rows = zip(chosen, sketches, strict=True)
        self.report_ = ClippingReport(
            tuple(s.report(names[i], float(self.lower_[i]), float(self.upper_[i])) for i, s in rows),
            self.rank_error_,
        )
        self._warn_of_single_values(warned)
        return self

    def transform(self, X: Any) -> Any:
        """Clip ``(N, F)`` data to the bounds, in a new array."""
        check_is_fitted(self, "lower_")
        array = self._array(X, reset=False)
        low, high = self._in_type(array.dtype, self.lower_, self.upper_)
        return np.clip(array, low, high)

    def report(self, X: Any) -> ClippingReport:
        """How many values of other data ``(N, F)`` the bounds clip: an exact count."""
        check_is_fitted(self, "lower_")
        array = self._array(X, reset=False)
        low, high = self._in_type(array.dtype, self.lower_, self.upper_)
        names = self._names()
        return ClippingReport(
            tuple(array_report(names[i], array[:, i], low[i], high[i]) for i in self._chosen(names))
        )

    @property
    def bounds_(self) -> Bounds:
        """The bounds of the clipped columns by name, for data frames."""
        check_is_fitted(self, "lower_")
        names = self._names()
        return Bounds({names[i]: (self.lower_[i], self.upper_[i]) for i in self._chosen(names)})

    def to_json(self) -> str:
        """Arguments, bounds and report as JSON, with exact numbers; without the sketches."""
        check_is_fitted(self, "lower_")
        names = getattr(self, "feature_names_in_", None)
        plain = {
            "arguments": {name: _plain(value) for name, value in self.get_params(deep=False).items()},
            "features": self.n_features_in_ if names is None else list(names),
            "rank_error": self.rank_error_,
            "report": self.report_.to_dict(),
        }
        bounds = json.loads(self.bounds_.to_json())
        return json.dumps({"clipper": plain} | bounds, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> "Clipper":
        """A Clipper from the text of `to_json`, ready to transform.

        Raises:
            ArgumentError: the text is not JSON, or not that of a Clipper.
        """
        bounds = Bounds.from_json(text)
        try:
            plain = json.loads(text)["clipper"]
            made = cls(**plain["arguments"])
            features = plain["features"]
            made.n_features_in_ = features if isinstance(features, int) else len(features)
            if not isinstance(features, int):
                made.feature_names_in_ = np.array(features, dtype=object)
            names = made._names()
            chosen = made._chosen(names)
            made.lower_, made.upper_ = made._spread(chosen, [bounds[names[i]] for i in chosen])
            made.rank_error_ = float(plain["rank_error"])
            made.report_ = ClippingReport.from_dict(plain["report"])
        except (KeyError, TypeError) as error:
            raise ArgumentError(f"this JSON is not of a Clipper: {error!r}") from error
        return made

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = self.nan == "keep"
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    def _rule(self) -> BoundsRule:
        if self.nan not in ("keep", "error"):
            raise ArgumentError(f"nan must be 'keep' or 'error', got {self.nan!r}")
        return bounds_rule(self.method, self.low, self.high, self.factor, self.side)

    def _array(self, X: Any, *, reset: bool) -> Values:
        """The data as a float array; errors name the column."""
        timed = temporal_column(X)
        if timed:
            raise ArgumentError(timed)
        try:
            array: Values = validate_data(self, X, reset=reset, dtype=FLOAT_DTYPES, ensure_all_finite=False)
        except (ValueError, TypeError) as error:
            blamed = non_numeric_value(X)
            raise (ArgumentError(blamed) if blamed else error) from error
        bad = ~np.isfinite(array).all(axis=0) if self.nan == "error" else np.zeros(1, dtype=bool)
        if bad.any():
            name = self._names()[int(bad.argmax())]
            raise ArgumentError(f"column {name!r} holds NaN or infinity, and nan='error' was asked for")
        return array

    def _names(self) -> list[str]:
        return [str(name) for name in self.get_feature_names_out()]

    def _chosen(self, names: Sequence[str]) -> list[int]:
        """The positions of the columns that are clipped, in the order they were named."""
        if self.columns is None:
            return list(range(len(names)))
        found = []
        for column in self.columns:
            if isinstance(column, str):
                if column not in names:
                    raise ArgumentError(f"columns: no column {column!r}. {did_you_mean(column, names)}")
                found.append(names.index(column))
            elif isinstance(column, int | np.integer) and -len(names) <= column < len(names):
                found.append(int(column) % len(names))
            else:
                raise ArgumentError(f"columns: no column {column!r} among {len(names)}")
        return list(dict.fromkeys(found))

    def _spread(self, chosen: Sequence[int], pairs: Sequence[tuple[float, float]]) -> tuple[Values, Values]:
        """The bounds of all columns; none for those that are not clipped."""
        lower, upper = np.full(self.n_features_in_, -np.inf), np.full(self.n_features_in_, np.inf)
        for i, (low, high) in zip(chosen, pairs, strict=True):
            lower[i], upper[i] = low, high
        return lower, upper

    def _in_type(self, dtype: Any, lower: Values, upper: Values) -> tuple[Values, Values]:
        """The bounds in the data's type; beyond its range there is none."""
        with np.errstate(over="ignore"):
            low, high = lower.astype(dtype), upper.astype(dtype)
        for i in np.flatnonzero(np.isposinf(low) | np.isneginf(high)):
            float_bounds(self._names()[i], lower[i], upper[i], dtype.type)  # says that no number is left
        return low, high

    def _warn_of_single_values(self, warned: Collection[str] = ()) -> None:
        for one in self.report_:
            if self.method != "given" and one.column not in warned:
                pair, extremes = (one.low, one.high), (one.smallest, one.largest)
                warn_of_single_value(one.column, pair, extremes, method=self.method)


def _leaves_one(one: ColumnReport) -> bool:
    return single_value(one.low, one.high, one.smallest, one.largest) is not None


def _plain(value: Any) -> Any:
    """An argument as JSON can hold it."""
    if isinstance(value, np.generic | np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, float):
        return finite_or_none(value)  # an infinite bound is none
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
