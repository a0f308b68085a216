"""Configuration files as mappings."""

from pathlib import Path
from typing import Any

# The readers of `clipwise.config.load`, without its last step: a lab configuration holds more than a clip.
from clipwise.config.files import _read_json, _read_yaml
from clipwise.errors import ConfigError

__all__ = ["read_mapping"]

READERS = {".json": _read_json, ".yaml": _read_yaml, ".yml": _read_yaml}


def read_mapping(path: Path) -> dict[str, Any]:
    """The mapping in a ``.json``, ``.yaml`` or ``.yml`` file.

    Raises:
        ConfigError: the file is missing, empty, malformed (with line and column), or holds no mapping.
    """
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise ConfigError(f"{path}: must end in {', '.join(READERS)}, got {path.suffix!r}")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 text (byte {error.start})") from error
    if not text.strip():
        raise ConfigError(f"{path}: the file is empty")
    try:
        data = reader(text)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: must hold a mapping of keys to values, got {type(data).__name__}")
    return data
