"""What kind of file a name stands for: its ending decides."""

from dataclasses import dataclass
from pathlib import Path

from clipwise.errors import ArgumentError

DELIMITERS = {".csv": ",", ".tsv": "\t"}
PARQUET = {".parquet", ".pq", ".parq"}
COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}


@dataclass(frozen=True)
class FileFormat:
    """Attributes:
    name: ``"Parquet"`` or ``"CSV"``.
    delimiter: of CSV.
    compression: of CSV as a whole.
    """

    name: str
    delimiter: str = ","
    compression: str = "none"


def source_format(path: Path) -> FileFormat:
    """CSV by its ending; anything else has to be Parquet.

    >>> source_format(Path("a.tsv.gz")).name, source_format(Path("a")).name
    ('CSV', 'Parquet')
    """
    return _known(path) or FileFormat("Parquet")


def target_format(path: Path, source: Path) -> FileFormat:
    """By its ending; without one, or with that of the source, what the source is.

    Raises:
        ArgumentError: the ending stands for something else.

    >>> target_format(Path("/dev/stdout"), Path("a.csv")).name
    'CSV'
    """
    found = _known(path)
    if found is None and path.suffix not in ("", source.suffix):
        raise ArgumentError(
            f"{path}: the extension sets the format; it must be .parquet, .csv or .tsv, got {path.suffix!r}"
        )
    return found or source_format(source)


def _known(path: Path) -> FileFormat | None:
    *_, first, last = ["", "", *(suffix.lower() for suffix in path.suffixes)]
    if last in PARQUET:
        return FileFormat("Parquet")
    ending, compression = (first, COMPRESSIONS[last]) if last in COMPRESSIONS else (last, "none")
    return FileFormat("CSV", DELIMITERS[ending], compression) if ending in DELIMITERS else None
