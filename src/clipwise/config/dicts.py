"""Clips and threshold policies from plain data, as a JSON or YAML file holds it."""

import math
import numbers
from collections.abc import Mapping, Sequence
from typing import Any

from clipwise.clip import AnyClip, ByName, Chain, Clip
from clipwise.clip import by_name as make_by_name
from clipwise.clip import chain as make_chain
from clipwise.config import strings
from clipwise.config.containers import Keys, is_list, items_of
from clipwise.config.paths import Path, show
from clipwise.config.registry import (
    COMBINATORS,
    NONE,
    Entry,
    Parameter,
    find_method,
    find_policy,
    located,
    method_names,
    methods,
    policies,
    unknown_key,
)
from clipwise.thresholds import Threshold

__all__ = ["clip_from", "number_from"]

_INFINITIES = {"inf": math.inf, "-inf": -math.inf}
"""How infinity is written in JSON, which has no number for it."""


def clip_from(data: object, path: Path) -> AnyClip | None:
    """The clip that a string or a mapping with a ``method`` describes; None for no clipping.

    >>> clip_from({"method": "clip_by_norm", "threshold": 1.0, "norm": "inf"}, Path())
    Clip(threshold=1.0, per='tensor', norm=inf)
    """
    if data is None or isinstance(data, Clip | Chain | ByName):
        return data
    if isinstance(data, str):
        return clip_from(strings.read_clip(data, path), path)
    if isinstance(data, Mapping):
        return _from_mapping(Keys(data, path), path)
    if isinstance(data, numbers.Number) and not isinstance(data, bool):
        raise strings.lone_number(data, path)
    raise path.error(
        "expected a clip: a mapping with a method, a string such as 'auto', or 'none' for no clipping,"
        f" got {show(data)}"
    )


def _from_mapping(data: Keys, path: Path) -> AnyClip | None:
    for key in data:
        if not isinstance(key, str):
            raise path.error(f"keys must be strings, got {show(key)}")
    if "method" not in data:
        for key in data:
            if key not in _CLIP_KEYS:
                raise unknown_key(path, key, ("method", *_CLIP_KEYS))
        raise (path / "method").error("missing; one of " + ", ".join(map(repr, method_names())))
    method = data["method"]
    if method is None or method == NONE:
        _no_other_keys(data, path, ("method",))
        return None
    if not isinstance(method, str):
        raise (path / "method").error(f"must be the name of a method, got {show(method)}")
    if method in COMBINATORS:
        _no_other_keys(data, path, ("method", "clips"))
        if "clips" not in data:
            raise (path / "clips").error(f"missing; {method} needs the clips it combines")
        combine = _chain if method == "chain" else _by_name
        return combine(data["clips"], path / "clips")
    clip: Clip = _make(find_method(method, path / "method"), data, "method", path)
    return clip


_CLIP_KEYS = ("clips", *dict.fromkeys(name for entry in methods().values() for name in entry.parameters))


def _no_other_keys(data: Mapping[str, Any], path: Path, known: Sequence[str]) -> None:
    for key in data:
        if key not in known:
            raise unknown_key(path, key, known)


def _chain(clips: object, path: Path) -> Chain:
    if not is_list(clips):
        raise path.error(f"must be a list of clips, got {show(clips)}")
    made = []
    for item, place in items_of(clips, path):
        clip = clip_from(item, place)
        if clip is None:
            raise place.error("a chain holds clips; leave out the one that does nothing")
        made.append(clip)
    with located(path, ()):
        return make_chain(*made)


def _by_name(clips: object, path: Path) -> ByName:
    if not isinstance(clips, Mapping):
        raise path.error(f"must map patterns of parameter names to clips, got {show(clips)}")
    parts = Keys(clips, path)
    for pattern in parts:
        if not isinstance(pattern, str):
            raise path.error(f"a pattern of names must be a string, got {show(pattern)}")
    made = {pattern: clip_from(item, path / pattern) for pattern, item in parts.items()}
    with located(path, ()):
        return make_by_name(made)


def _make(entry: Entry, data: Mapping[str, Any], tag: str, path: Path) -> Any:
    """What the entry makes of a mapping whose key ``tag`` named it."""
    given = {key: value for key, value in data.items() if key != tag}
    for key in given:
        if key not in entry.parameters:
            raise unknown_key(path, key, entry.parameters)
    for name, parameter in entry.parameters.items():
        if parameter.required and name not in given:
            raise (path / name).error(f"missing; {entry.name} needs {parameter.expects}")
    arguments = {key: _value(entry.parameters[key], value, path / key) for key, value in given.items()}
    return entry(arguments, path)


def _value(parameter: Parameter, value: object, path: Path) -> Any:
    """The value as the parameter takes it; what range it must lie in is the constructor's own matter."""
    if value is None and parameter.none:
        return None
    if isinstance(value, str):
        if parameter.number and value in _INFINITIES:
            return _INFINITIES[value]
        if value in parameter.words:
            return value
    if parameter.policy and isinstance(value, Threshold):
        return value
    if parameter.policy and isinstance(value, str | Mapping):
        return _policy(value, path)
    if isinstance(value, bool):
        if parameter.flag:
            return value
    elif isinstance(value, numbers.Real) and (parameter.number or parameter.whole):
        return _number(parameter, value, path)
    elif parameter.pair and is_list(value) and len(value) == 2:
        return tuple(number_from(item, place) for item, place in items_of(value, path))
    elif parameter.function and callable(value):
        return value
    if parameter.function:
        raise path.error(
            f"must be a function, which a configuration cannot hold, got {show(value)};"
            " use linear, cosine or exponential, or make the schedule in Python"
        )
    raise path.error(f"must be {parameter.expects}, got {show(value)}")


def number_from(value: object, path: Path) -> float:
    """A number as a file may hold it, "inf" included; the caller checks its range."""
    number: float = _value(Parameter(name="", required=True, positional=True, number=True), value, path)
    return number


def _number(parameter: Parameter, value: numbers.Real, path: Path) -> int | float:
    if isinstance(value, numbers.Integral):
        if parameter.number and abs(int(value)) > 2**1023:
            raise path.error(f"must be in the range of a floating-point number, got {show(value)}")
        return int(value)
    number = float(value)
    if parameter.number:
        return number
    if number.is_integer():  # 1e3 in a file is a float, and means a thousand steps
        return int(number)
    raise path.error(f"must be {parameter.expects}, got {show(value)}")


def _policy(data: str | Mapping[Any, Any], path: Path) -> Any:
    if isinstance(data, str):
        data = strings.read_policy(data, path)
    data = Keys(data, path)
    for key in data:
        if not isinstance(key, str):
            raise path.error(f"keys must be strings, got {show(key)}")
    if "policy" not in data:
        for key in data:
            if not any(key in entry.parameters for entry in policies().values()):
                raise unknown_key(path, key, ("policy",))
        raise (path / "policy").error("missing; one of " + ", ".join(map(repr, policies())))
    name = data["policy"]
    if not isinstance(name, str):
        raise (path / "policy").error(f"must be the name of a policy, got {show(name)}")
    return _make(find_policy(name, path / "policy"), data, "policy", path)
