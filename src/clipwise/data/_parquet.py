"""Parquet as DuckDB reads and writes it: one file's columns, and what of it goes into the new one."""

from pathlib import Path
from typing import Any

from clipwise.data._database import Database, escaped
from clipwise.data._extra import load
from clipwise.data._parquet_types import check_names, check_types, is_number, schema_of
from clipwise.data._table import Table
from clipwise.errors import DataError

CODECS = {"UNCOMPRESSED", "SNAPPY", "GZIP", "ZSTD", "BROTLI", "LZ4_RAW"}


class ParquetSource:
    """A file that is open for reading.

    Raises:
        DataError: it is no Parquet file, or is cut off, or holds a column that would not stay what it is.

    Attributes:
        table: its columns.
        rows: how many there are.
        missing: what stands for no number, beside null.
        options: for `write_parquet`, so that codec and metadata stay.
    """

    missing: tuple[str, ...] = ()

    def __init__(self, database: Database, path: Path) -> None:
        with path.open("rb") as file:
            begin = file.read(4)
        if begin and begin != b"PAR1":
            raise DataError(f"{path}: no Parquet file; CSV is read where the name ends in .csv or .tsv")
        place = escaped(path)
        # Of a folder named year=2024 DuckDB would make a column.
        self.relation = database.attempt(
            lambda: database.connection.read_parquet(place, hive_partitioning=False)
        )
        ((self.rows,),) = database.fetch(
            "SELECT coalesce(sum(num_rows), 0)::BIGINT FROM parquet_file_metadata($path)", path=place
        )
        codecs = database.fetch("SELECT compression FROM parquet_metadata($path) LIMIT 1", path=place)
        codec = codecs[0][0] if codecs else "SNAPPY"
        # Arrow's own types are in the metadata, and the index of pandas.
        metadata = database.fetch("SELECT key, value FROM parquet_kv_metadata($path)", path=place)
        self.options: dict[str, Any] = {
            "codec": codec if codec in CODECS else "SNAPPY",
            "metadata": {key.decode(errors="replace"): value for key, value in metadata},
        }
        self.schema = schema_of(path)
        check_names(path, self.schema.names, self.relation.columns)
        empty = database.scratch / "types"
        write_parquet(database, self.relation.limit(0), empty, **self.options)
        check_types(path, self.schema, schema_of(empty))
        self.table = Table.of(load("narwhals.stable.v2").from_native(self.relation))

    def is_number(self, column: str) -> bool:
        """Whether Arrow calls the column one of numbers."""
        return is_number(self.schema.field(column).type)

    def kind(self, column: str) -> str:
        """The type of a column as the file has it."""
        return str(self.schema.field(column).type)


def write_parquet(
    database: Database, relation: Any, path: Path, *, codec: str = "SNAPPY", metadata: Any = None
) -> None:
    """All rows of a relation, in their order, as a new file."""
    relation.to_view("written")
    options, values = f"FORMAT parquet, COMPRESSION {codec}", {}
    if metadata:
        options, values = f"{options}, KV_METADATA $metadata", {"metadata": metadata}
    database.fetch(f"COPY (FROM written) TO $path ({options})", path=str(path), **values)
