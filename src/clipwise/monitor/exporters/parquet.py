"""Export to Parquet: tables with types, for data frames."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from clipwise.monitor.exporters._tables import ALERTS, Table, Tables
from clipwise.monitor.store import Alert

CELLS = 1 << 20
"""Numbers of a table that are in memory at a time."""

TYPES = {"step": int, "time": float, "rank": int}
"""Of the columns of an alert; the others are texts."""


class Parquet(Tables):
    """The tables of `CSV` as Parquet: float64 and int64, null where nothing was recorded.

    NaN and Inf are kept. Written by polars, or by pyarrow if polars is not installed.

    Args:
        path: a file name ending in ``.parquet``; or a folder, in which the file is named after the run.
        taken: as for `CSV`.

    Raises:
        ArgumentError: ``taken`` is not ``"number"``, ``"refuse"`` or ``"replace"``.
        MissingPackageError: neither polars nor pyarrow is installed.
    """

    name = "parquet"
    extra = "parquet"
    suffix = ".parquet"

    def __init__(self, path: str | Path = ".", *, taken: Any = "number") -> None:
        super().__init__(path, taken=taken)
        try:
            self.load("polars")
            self._writer: Any = _Polars
        except ModuleNotFoundError as missing:
            try:
                self.load("pyarrow")
            except ModuleNotFoundError:
                raise missing from None
            self._writer = _PyArrow

    def _open(self, path: Path, names: Sequence[str]) -> Table:
        return _Pieces(self._writer(path, {"step": int, **dict.fromkeys(names, float)}), len(names))

    def _texts(self, path: Path, alerts: Sequence[Alert]) -> None:
        writer = self._writer(path, {name: TYPES.get(name, str) for name in ALERTS})
        writer.add([[getattr(alert, name) for alert in alerts] for name in ALERTS])
        writer.close()


class _Pieces:
    """Gathers rows, and writes so many of them at a time."""

    def __init__(self, writer: Any, width: int) -> None:
        self._writer, self._width = writer, width
        self._most = max(1, CELLS // (1 + width))
        self._rows: list[tuple[float | None, ...]] = []
        self._written = False

    def add(self, step: int, cells: Sequence[float | None]) -> None:
        self._rows.append((step, *cells))
        if len(self._rows) >= self._most:
            self._write()

    def close(self) -> None:
        if self._rows or not self._written:
            self._write()
        self._writer.close()

    def _write(self) -> None:
        columns = list(zip(*self._rows, strict=True)) or [()] * (1 + self._width)
        self._writer.add(columns)
        self._rows, self._written = [], True


class _Polars:
    """Pieces are files of their own, which are then put together as a stream."""

    def __init__(self, path: Path, columns: Mapping[str, type]) -> None:
        polars: Any = Parquet.load("polars")

        kinds = {int: polars.Int64, float: polars.Float64, str: polars.String}
        self._polars, self._path, self._pieces = polars, path, list[Path]()
        self._schema = {name: kinds[kind] for name, kind in columns.items()}

    def add(self, columns: Sequence[Sequence[Any]]) -> None:
        piece = self._path.with_name(f"{self._path.name}.{len(self._pieces)}")
        named = dict(zip(self._schema, columns, strict=True))
        self._written(lambda: self._polars.DataFrame(named, schema=self._schema).write_parquet(piece))
        self._pieces.append(piece)

    def close(self) -> None:
        if len(self._pieces) == 1:
            self._pieces[0].replace(self._path)
        else:
            self._written(lambda: self._polars.scan_parquet(self._pieces).sink_parquet(self._path))

    def _written(self, write: Callable[[], object]) -> None:
        """A full disk is an error of the system, whatever polars calls it."""
        try:
            write()
        except self._polars.exceptions.PolarsError as error:
            raise OSError(str(error)) from error


class _PyArrow:
    def __init__(self, path: Path, columns: Mapping[str, type]) -> None:
        pyarrow: Any = Parquet.load("pyarrow")
        writer: Any = Parquet.load("pyarrow.parquet")

        kinds = {int: pyarrow.int64(), float: pyarrow.float64(), str: pyarrow.string()}
        self._schema = pyarrow.schema([(name, kinds[kind]) for name, kind in columns.items()])
        self._table: Any = pyarrow.table
        self._writer = writer.ParquetWriter(path, self._schema)

    def add(self, columns: Sequence[Sequence[Any]]) -> None:
        # Of Python's numbers NaN is NaN, and None is null.
        named = dict(zip(self._schema.names, columns, strict=True))
        self._writer.write_table(self._table(named, schema=self._schema))

    def close(self) -> None:
        self._writer.close()
