"""How many values were clipped, on each side of each column."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from clipwise.data._bounds import finite_or_none


@dataclass(frozen=True)
class ColumnReport:
    """The effect of the bounds on one column.

    Attributes:
        column: name of the column.
        low, high: its bounds, ``-inf`` and ``inf`` for no bound.
        count: number of values without missing ones.
        missing: number of NaN and nulls.
        below, above: number of values below ``low`` and above ``high``.
        smallest, largest: of the finite values before clipping; NaN if there is none.
    """

    column: str
    low: float
    high: float
    count: int
    missing: int
    below: int
    above: int
    smallest: float
    largest: float

    @property
    def share_below(self) -> float:
        """Share of the values that is raised to ``low``."""
        return self.below / self.count if self.count else 0.0

    @property
    def share_above(self) -> float:
        """Share of the values that is lowered to ``high``."""
        return self.above / self.count if self.count else 0.0

    def __str__(self) -> str:
        return (
            f"{self.column}: [{self.low:,.6g}, {self.high:,.6g}]"
            f" of [{self.smallest:,.6g}, {self.largest:,.6g}]"
            f" clips {self.below:,} below ({self.share_below:.2%}) and {self.above:,} above"
            f" ({self.share_above:.2%}) of {self.count:,}"
            + (f", {self.missing:,} missing" * bool(self.missing))
        )


@dataclass(frozen=True)
class ClippingReport:
    """The effect of the bounds on some columns; printed as one line per column.

    Attributes:
        columns: one `ColumnReport` each.
        rank_error: 0 if ``below`` and ``above`` are exact counts. Otherwise they come from a sketch, and
            their shares are off by at most this with 99 % confidence.
    """

    columns: tuple[ColumnReport, ...]
    rank_error: float = 0.0

    def __getitem__(self, column: str) -> ColumnReport:
        for one in self.columns:
            if one.column == column:
                return one
        raise KeyError(column)

    def __iter__(self) -> Iterator[ColumnReport]:
        return iter(self.columns)

    def __len__(self) -> int:
        return len(self.columns)

    def __str__(self) -> str:
        return "\n".join(map(str, self.columns))

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON: None for a missing bound, and for the extremes of no values."""
        rows = [asdict(one) for one in self.columns]
        for row in rows:
            for key in ("low", "high", "smallest", "largest"):
                row[key] = finite_or_none(row[key])
        return {"columns": rows, "rank_error": self.rank_error}

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> "ClippingReport":
        """What `to_dict` made."""
        empty = {"low": -math.inf, "high": math.inf, "smallest": math.nan, "largest": math.nan}
        rows: Sequence[dict[str, Any]] = plain["columns"]
        return cls(
            tuple(
                ColumnReport(**row | {k: none if row[k] is None else row[k] for k, none in empty.items()})
                for row in rows
            ),
            float(plain["rank_error"]),
        )
