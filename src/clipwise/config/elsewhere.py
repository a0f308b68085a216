"""Finds clipping that is nested, has another name, or is to be created by Hydra."""

from collections import deque
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from clipwise.config.containers import Keys, is_list, items_of
from clipwise.config.paths import MAX_VALUES, Path, show
from clipwise.config.registry import method_names
from clipwise.errors import ConfigError

__all__ = ["OF_OTHERS", "TARGET", "deeper", "for_hydra"]

TARGET = "_target_"
"""Hydra's key for what it calls with the other keys."""

OF_OTHERS: Mapping[str, str] = {
    "clip_norm": "Did you mean 'clipnorm', the norm of each tensor as in Keras, or 'global_clipnorm',"
    " the global norm as in fairseq's clip_norm?",
}
"""Keys of other libraries that are near one that means something else: what may be meant."""


def deeper(data: Mapping[Any, Any], path: Path, known: Collection[str]) -> str:
    """Half a sentence that names nested keys that hold a clip and how to pass them; empty if there are none.

    >>> deeper({"trainer": {"gradient_clip_val": 0.5}}, Path(), ["gradient_clip_val"])
    "; there is trainer.gradient_clip_val: pass that part alone, as in parse(settings['trainer'])"
    """
    found = list(_nested(data, path, known))
    if not found:
        return ""
    names = " and ".join(str(place / key) for place, key in found[:3])
    part = "".join(f"[{key!r}]" for key in found[0][0].parts)
    return f"; there is {names}: pass that part alone, as in parse(settings{part})"


def _nested(data: Mapping[Any, Any], path: Path, known: Collection[str]) -> Iterator[tuple[Path, str]]:
    """Each nested mapping with a key that says how to clip, the least deep first."""
    ahead = deque(_inside(data, path))
    seen: dict[int, object] = {id(data): data}  # kept, so that no id is used twice
    while ahead and len(seen) + len(ahead) < MAX_VALUES:
        value, place = ahead.popleft()
        if not (isinstance(value, Mapping) or is_list(value)) or id(value) in seen:
            continue
        seen[id(value)] = value
        try:
            if isinstance(value, Mapping):
                keys = Keys(value, place)
                yield from ((place, key) for key in keys if _says_how(keys, key, known))
            ahead.extend(_inside(value, place))
        except ConfigError:  # too deep, or not to be read: it is only looked through
            continue


def _says_how(keys: Keys, key: object, known: Collection[str]) -> bool:
    if not isinstance(key, str):
        return False
    if key == "method":
        return keys[key] in method_names()
    return (key in known or key in OF_OTHERS) and keys[key] is not None


def _inside(value: Any, path: Path) -> Iterator[tuple[Any, Path]]:
    if not isinstance(value, Mapping):
        yield from items_of(value, path)
        return
    keys = Keys(value, path)
    for key in keys:
        try:
            yield keys[key], path / key
        except ConfigError:  # one that is missing
            continue


def for_hydra(target: object, path: Path) -> ConfigError:
    """The exception for a mapping that Hydra has not turned into a clip yet."""
    return (path / TARGET).error(
        f"{show(target)} is for Hydra to call: pass what hydra.utils.instantiate makes of it, with"
        " '_convert_: all' beside '_target_', without which Hydra makes configurations of the clips in a"
        " chain; or write 'method' instead of '_target_'"
    )
