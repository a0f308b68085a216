"""Mappings and lists of any kind: plain ones, OmegaConf's, and all that follow the protocols.

In OmegaConf a mandatory value (``???``) is not ``in`` its container, and reading it or a broken interpolation
raises OmegaConf's own errors. A value is read here only when it is needed, so unused ones may be missing.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeGuard

from clipwise.config.paths import MAX_VALUES, Path
from clipwise.errors import ConfigError

__all__ = ["Keys", "first_line", "is_list", "items_of"]

_MISSING = "???"
"""How OmegaConf, and so Hydra, writes a value that must be given."""


class Keys(Mapping[Any, Any]):
    """A mapping and its path in a configuration; reading errors become a ConfigError that names the key."""

    def __init__(self, data: Mapping[Any, Any], path: Path) -> None:
        try:
            self._keys = dict.fromkeys(data)
        except Exception as error:  # whatever the mapping raises: it is not ours
            raise path.error(f"cannot be read: {first_line(error)}") from error
        if len(self._keys) > MAX_VALUES:
            raise path.error(f"holds more than {MAX_VALUES:,} values")
        self._data, self._path = data, path

    def __iter__(self) -> Iterator[Any]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)

    def __contains__(self, key: object) -> bool:
        return key in self._keys

    def __getitem__(self, key: Any) -> Any:
        if key not in self._keys:
            raise KeyError(key)
        return _read(self._data, key, self._path / key)


def is_list(value: object) -> TypeGuard[Sequence[Any]]:
    """Whether it is a sequence and not a string: a list, a tuple, OmegaConf's ListConfig."""
    return isinstance(value, Sequence) and not isinstance(value, str | bytes | bytearray | memoryview)


def items_of(values: Sequence[Any], path: Path) -> list[tuple[Any, Path]]:
    """The items of a list, each with its path; ConfigError for one that cannot be read."""
    try:
        count = len(values)
    except Exception as error:
        raise path.error(f"cannot be read: {first_line(error)}") from error
    if count > MAX_VALUES:
        raise path.error(f"holds more than {MAX_VALUES:,} values")
    places = [path / i for i in range(count)]
    return [(_read(values, i, place), place) for i, place in enumerate(places)]


def _read(data: Any, key: Any, place: Path) -> Any:
    try:
        value = data[key]
    except ConfigError:  # from a mapping that is read like this already
        raise
    except Exception as error:
        if type(error).__name__ == "MissingMandatoryValue":
            value = _MISSING
        else:
            raise place.error(f"cannot be read: {first_line(error)}") from error
    if isinstance(value, str) and value == _MISSING:
        raise place.error("is '???', which stands for a value that must be given: give it")
    return value


def first_line(error: Exception) -> str:
    """The message of another library's error, in one line."""
    return str(error).partition("\n")[0] or type(error).__name__
