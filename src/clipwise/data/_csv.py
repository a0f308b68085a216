"""CSV as DuckDB reads and writes it; what is not clipped is kept character for character."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clipwise.data._database import Database, escaped
from clipwise.data._expressions import clipped
from clipwise.data._extra import load
from clipwise.data._parquet_types import check_names
from clipwise.data._table import Table
from clipwise.errors import DataError

MISSING = ("", "NA", "N/A", "<NA>", "NULL", "null", "None")
"""What stands for no number in a column of numbers; what R and pandas write."""

NO_NUMBER = f"^({'|'.join(MISSING)})$"

TYPES = ["BIGINT", "HUGEINT", "DOUBLE"]
"""Of columns of numbers."""

BUFFER = 2**21
"""Bytes that DuckDB reads at a time: its own 32 MB leave no room for anything else in 64 MB."""

NOTHING = "(empty)"
"""How DuckDB says that it found no quote, escape or comment."""


class CsvSource:
    """A file that is open for reading; its first line names the columns.

    The delimiter, the quotes and the types are what DuckDB finds in the whole file. A column is of numbers if
    all of it is, `MISSING` left out; numbers with leading zeros or a plus sign are text until asked for.

    Raises:
        DataError: it is empty, no text in UTF-8 or no table, has lines before its table or comments, or
            two columns differ only in case.

    Args:
        sample: rows to look at, -1 for all.

    Attributes:
        table: its columns, those of numbers as numbers.
        rows: None, as nobody has counted them.
        missing: what stands for no number.
        options: for `write_csv`, so that delimiter and quotes stay.
    """

    rows = None
    missing = MISSING

    def __init__(self, database: Database, path: Path, sample: int = -1) -> None:
        with path.open("rb") as file:
            begin = file.read(4)
        if not begin or begin == b"PAR1":
            what = "it holds Parquet: name it .parquet" if begin else "it is empty, without names of columns"
            raise DataError(f"{path} cannot be read as CSV: {what}")
        place = escaped(path)
        query = (
            "SELECT Delimiter, Quote, Escape, Comment, Columns FROM sniff_csv($path, header = true, skip = 0,"
            " sample_size = $sample, buffer_size = $buffer, nullstr = $missing,"
            " auto_type_candidates = $types)"
        )
        values = {
            "path": place,
            "sample": sample,
            "buffer": BUFFER,
            "missing": list(MISSING),
            "types": [*TYPES, "VARCHAR"],
        }
        ((delimiter, quote, escape, comment, columns),) = database.run(
            lambda: database.fetch(query, **values), lambda share: None
        )
        if comment != NOTHING:
            raise DataError(f"{path}: lines that begin with {comment!r} would be lost; remove them")
        quote, escape = (found if found != NOTHING else '"' for found in (quote, escape))
        self.options = {"delimiter": delimiter, "quote": quote, "escape": escape}
        names = [column["name"] for column in columns]
        if names[1:] == [] and columns[0]["type"] == "VARCHAR":
            raise DataError(
                f"{path}: DuckDB finds one column, {names[0]!r}, and it is text; the first line has to name"
                " the columns, and every line to have a field for each"
            )

        def rows(header: bool) -> Any:
            return database.connection.read_csv(
                place,
                auto_detect=False,
                header=header,
                columns=dict.fromkeys(names, "VARCHAR"),
                delimiter=delimiter,
                quotechar=quote,
                escapechar=escape,
                allow_quoted_nulls=False,  # an empty text in quotes is no null, and stays
                buffer_size=BUFFER,
            )

        self.header = database.attempt(lambda: rows(False).limit(1))
        (written,) = database.attempt(self.header.fetchall)
        # A name that is missing, as that of pandas' index, has one of DuckDB's own until it is written.
        check_names(
            path, [new if old is None else old for old, new in zip(written, names, strict=True)], names
        )
        nw = load("narwhals.stable.v2")
        self._text = nw.from_native(database.attempt(lambda: rows(True)))
        # Parquet has no whole numbers of 128 bits, but decimals of 38 digits.
        types = {"BIGINT": nw.Int64(), "HUGEINT": nw.Decimal(38, 0), "DOUBLE": nw.Float64()}
        self._numbers: dict[str, Any] = {}
        self.table = Table.of(self._text)
        self.read_as_numbers({one["name"]: types[one["type"]] for one in columns if one["type"] in types})

    def read_as_numbers(self, types: Mapping[str, Any]) -> None:
        """Take columns of text for numbers of narwhals' types."""
        nw = load("narwhals.stable.v2")
        for name, dtype in types.items():
            text = nw.col(name)
            # Not is_in, which DuckDB makes a join of, and that loses the order of rows.
            number = nw.when(~text.str.contains(NO_NUMBER)).then(text)
            self._numbers[name] = number.cast(dtype)
        if self._numbers:
            self.table = Table.of(self._text.with_columns(**self._numbers))

    def is_number(self, column: str) -> bool:
        return column in self._numbers

    def kind(self, column: str) -> str:
        return "text"

    def clipped_text(self, typed: Any) -> Any:
        """The text with the numbers that lie outside their bounds replaced."""
        nw = load("narwhals.stable.v2")
        changed = []
        for column, pair in typed.items():
            number = self._numbers[column]
            within = clipped(number, self.table.types[column], pair)
            text = nw.when(within != number).then(within.cast(nw.String)).otherwise(nw.col(column))
            changed.append(text.alias(column))
        return self._text.with_columns(changed) if changed else self._text


def write_csv(
    database: Database,
    relation: Any,
    path: Path,
    *,
    header: Any = None,
    delimiter: str = ",",
    quote: str = '"',
    escape: str = '"',
    compression: str = "none",
) -> None:
    """All rows of a relation, in their order, as a new file.

    Args:
        header: a relation whose one row is the first line, in place of the columns' names.
    """
    (relation if header is None else header.union(relation)).to_view("written")
    database.fetch(
        f"COPY (FROM written) TO $path (FORMAT csv, HEADER {header is None}, COMPRESSION {compression},"
        " DELIMITER $delimiter, QUOTE $quote, ESCAPE $escape)",
        path=str(path),
        delimiter=delimiter,
        quote=quote,
        escape=escape,
    )
