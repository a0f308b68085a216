"""Clips from JSON and YAML files."""

import json
import os
import pathlib
import stat
from typing import Any

from clipwise.clip import AnyClip
from clipwise.config import settings
from clipwise.config.paths import MAX_DEPTH, MAX_VALUES, Path
from clipwise.config.yaml_text import read_yaml
from clipwise.errors import ConfigError

__all__ = ["load", "read", "read_mapping"]

MAX_BYTES = 2**20
"""Bytes of a file that are read; a configuration has thousands."""


def load(path: str | os.PathLike[str]) -> AnyClip | None:
    """The clip in a ``.json``, ``.yaml`` or ``.yml`` file; see `parse` for the content.

    YAML is read with PyYAML's safe loader (``pip install "clipwise[yaml]"``), which creates no objects.
    ``1e-3`` is a number here, although YAML 1.1 reads it as text.

    Raises:
        ConfigError: the file cannot be read, is empty or malformed (with line and column), has a duplicate
            key, or describes no clip. The message begins with the path of the file, then that of the key.

    >>> import pathlib, tempfile
    >>> file = pathlib.Path(tempfile.mkdtemp(), "clip.json")
    >>> _ = file.write_text('{"method": "clip_by_norm", "threshold": 1.0}')
    >>> load(file)
    Clip(threshold=1.0, per='tensor', norm=2.0)
    """
    data = read(path)
    try:
        if data is None:
            raise ConfigError('the file is empty; for no clipping write "none"')
        return settings.read(data, Path.to_read())
    except ConfigError as error:
        raise ConfigError(f"{os.fspath(path)}: {error}") from error


def read_mapping(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The mapping in a ``.json``, ``.yaml`` or ``.yml`` file, with any keys.

    Raises:
        ConfigError: as for `load`, or the file does not hold a mapping.
    """
    data = read(path)
    if data is None:
        raise ConfigError(f"{os.fspath(path)}: the file is empty")
    if not isinstance(data, dict):
        raise ConfigError(
            f"{os.fspath(path)}: must hold a mapping of keys to values, got {type(data).__name__}"
        )
    return data


def read(path: str | os.PathLike[str]) -> Any:
    """The content of a ``.json``, ``.yaml`` or ``.yml`` file; None if it is empty."""
    file = pathlib.Path(path)
    readers = {".json": _read_json, ".yaml": read_yaml, ".yml": read_yaml}
    reader = readers.get(file.suffix.lower())
    if reader is None:
        raise ConfigError(f"{file}: must end in {', '.join(readers)}, got {file.suffix!r}")
    try:
        text = _text(file)
        return reader(text) if text.strip() else None
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from error


def _text(file: pathlib.Path) -> str:
    try:
        mode = file.stat().st_mode
        if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
            raise ConfigError("cannot be read: it is a device; give a file")
        with file.open("rb") as stream:
            content = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror or error}") from error
    except ConfigError:
        raise
    except ValueError as error:  # a null character in the name
        raise ConfigError(f"cannot be read: {error}") from error
    if len(content) > MAX_BYTES:
        raise ConfigError(f"is larger than {MAX_BYTES / 2**20:g} MiB, too large for a configuration")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"is not UTF-8 text (byte {error.start})") from error


def _read_json(text: str) -> Any:
    try:
        data = json.loads(text, object_pairs_hook=_without_duplicates)
    except json.JSONDecodeError as error:
        raise ConfigError(f"line {error.lineno}, column {error.colno}: {error.msg}") from error
    except RecursionError as error:
        raise ConfigError(f"nested deeper than {MAX_DEPTH} levels") from error
    except ConfigError:
        raise
    except ValueError as error:  # an integer of thousands of digits
        raise ConfigError(str(error)) from error
    _check_extent(data)
    return data


def _check_extent(data: Any) -> None:
    """ConfigError if it holds too many values or levels; a level at a time, since JSON shares nothing."""
    level, count = [data], 1
    for _ in range(MAX_DEPTH + 1):
        level = [
            value
            for outer in level
            if isinstance(outer, dict | list)
            for value in (outer.values() if isinstance(outer, dict) else outer)
        ]
        count += len(level)
        if count > MAX_VALUES:
            raise ConfigError(f"holds more than {MAX_VALUES:,} values")
        if not level:
            return
    raise ConfigError(f"nested deeper than {MAX_DEPTH} levels")


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ConfigError(f"the key {key!r} is given twice")
        found[key] = value
    return found
