"""Clips from JSON and YAML files."""

import json
import os
import pathlib
import re
from typing import TYPE_CHECKING, Any

from clipwise.clip import AnyClip
from clipwise.config import settings
from clipwise.config.paths import Path
from clipwise.errors import ConfigError

if TYPE_CHECKING:
    import yaml

__all__ = ["load", "read", "read_mapping"]


def load(path: str | os.PathLike[str]) -> AnyClip | None:
    """The clip that a ``.json``, ``.yaml`` or ``.yml`` file describes; see `parse` for what it may hold.

    YAML is read with PyYAML's safe loader (``pip install "clipwise[yaml]"``), which makes no objects. Numbers
    such as ``1e-3``, a text to YAML 1.1, are numbers here.

    Raises:
        ConfigError: the file cannot be read, is empty or malformed (with line and column), gives a key
            twice, or describes no clip. The message begins with the file's path, then the key's.
    """
    data = read(path)
    try:
        if data is None:
            raise ConfigError('the file is empty; for no clipping write "none"')
        return settings.read(data, Path())
    except ConfigError as error:
        raise ConfigError(f"{os.fspath(path)}: {error}") from error


def read_mapping(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The mapping that a ``.json``, ``.yaml`` or ``.yml`` file holds, whatever its keys.

    Raises:
        ConfigError: as for `load`, or the file holds no mapping.
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
    """What a ``.json``, ``.yaml`` or ``.yml`` file holds; None if it is empty."""
    file = pathlib.Path(path)
    readers = {".json": _read_json, ".yaml": _read_yaml, ".yml": _read_yaml}
    reader = readers.get(file.suffix.lower())
    if reader is None:
        raise ConfigError(f"{file}: must end in {', '.join(readers)}, got {file.suffix!r}")
    try:
        text = file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file}: is not UTF-8 text (byte {error.start})") from error
    try:
        return reader(text) if text.strip() else None
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from error


def _read_json(text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_without_duplicates)
    except json.JSONDecodeError as error:
        raise ConfigError(f"line {error.lineno}, column {error.colno}: {error.msg}") from error
    except RecursionError as error:
        raise ConfigError("nested too deeply") from error
    except ValueError as error:  # an integer of thousands of digits
        raise ConfigError(str(error)) from error


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ConfigError(f"the key {key!r} is given twice")
        found[key] = value
    return found


def _read_yaml(text: str) -> Any:
    try:
        import yaml
    except ModuleNotFoundError as error:
        raise ConfigError(
            'reading YAML needs PyYAML, which is not installed: pip install "clipwise[yaml]", or write JSON'
        ) from error
    try:
        return yaml.load(text, Loader=_strict_loader())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise ConfigError(f"{where}{error.problem or error.context}") from error
    except RecursionError as error:
        raise ConfigError("nested too deeply") from error
    except (yaml.YAMLError, ValueError, LookupError, AttributeError) as error:
        # PyYAML lets Python's own errors through for a tag that does not fit its text, such as "!!int x".
        raise ConfigError(f"malformed YAML: {error}") from error


def _strict_loader() -> "type[yaml.SafeLoader]":
    """PyYAML's safe loader, but a key given twice is an error, and 1e-3 is a number."""
    import yaml

    class StrictLoader(yaml.SafeLoader):
        def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
            node = super().compose_mapping_node(anchor)
            seen = set()
            for key, _ in node.value:
                if isinstance(key, yaml.ScalarNode):
                    if (key.tag, key.value) in seen:
                        raise yaml.MarkedYAMLError(
                            problem=f"the key {key.value!r} is given twice", problem_mark=key.start_mark
                        )
                    seen.add((key.tag, key.value))
            return node

    # YAML 1.1 wants a dot in a float, so PyYAML reads 1e-3 as a text.
    StrictLoader.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
    )
    return StrictLoader
