"""The columns of a Parquet file in Arrow's words: which are numbers, and which types stay what they are."""

from pathlib import Path
from typing import Any

from clipwise.data._extra import load
from clipwise.errors import DataError


def schema_of(path: Path) -> Any:
    """The schema of a file, with its metadata.

    Raises:
        DataError: the file cannot be read.
    """
    parquet, arrow = load("pyarrow.parquet"), load("pyarrow")
    try:
        with path.open("rb") as file:
            return parquet.read_schema(file)
    except (OSError, arrow.ArrowException) as error:
        raise DataError(f"{path} cannot be read as Parquet ({str(error).splitlines()[0]})") from error


def is_number(kind: Any) -> bool:
    """Whether a type is of numbers: not of dates, durations, truths, categories or lists."""
    types = load("pyarrow").types
    return bool(types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind))


def check_names(path: Path, names: list[str], found: list[str]) -> None:
    """Refuse columns that have another name in DuckDB, where names that differ in case alone are the same."""
    for i, (name, other) in enumerate(zip(names, found, strict=True)):
        if name != other:
            twin = next((one for one in names[:i] if one.lower() == name.lower()), other)
            raise DataError(
                f"{path}: columns {twin!r} and {name!r} differ only in case, if at all, and DuckDB"
                " does not tell them apart; rename one"
            )


def check_types(path: Path, before: Any, after: Any) -> None:
    """Refuse columns whose values would not be the same in the type that is written."""
    for old, new in zip(before, after, strict=True):
        if not _stays(old.type, new.type):
            raise DataError(
                f"{path}: column {old.name!r} is of type {old.type}, and DuckDB would make {new.type} of it;"
                " leave it out of the file"
            )


def _stays(old: Any, new: Any) -> bool:
    types = load("pyarrow").types
    if old == new or types.is_null(old):
        return True
    if types.is_timestamp(old):
        return types.is_timestamp(new) and (old.tz is None) == (new.tz is None)
    for wider, of in (
        (types.is_time, types.is_time),
        (types.is_date, types.is_date),
        (types.is_float16, types.is_float32),
        (types.is_fixed_size_binary, types.is_binary),
    ):
        if wider(old) and of(new):
            return True
    if old.id != new.id or not types.is_nested(old) or old.num_fields != new.num_fields:
        return False
    parts = [(old.field(i), new.field(i)) for i in range(old.num_fields)]
    return all(
        (one.name == other.name or not types.is_struct(old)) and _stays(one.type, other.type)
        for one, other in parts
    )
