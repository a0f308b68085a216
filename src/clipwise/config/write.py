"""Clips to plain data, under the most specific name: ``autoclip`` rather than ``clip_by_global_norm``."""

import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from clipwise.clip import AnyClip, ByName, Chain, Clip
from clipwise.config.paths import Path, show
from clipwise.config.registry import Entry, methods, policies
from clipwise.errors import ArgumentError, ThresholdError
from clipwise.thresholds import Threshold

__all__ = ["to_data"]


def to_data(clip: AnyClip | None, path: Path) -> dict[str, Any] | None:
    """The canonical plain data of a clip: preset names where they fit, no defaults, infinity as text."""
    if clip is None:
        return None
    if isinstance(clip, Chain):
        clips = [to_data(part, path / "clips" / i) for i, part in enumerate(clip.clips)]
        return {"method": "chain", "clips": clips}
    if isinstance(clip, ByName):
        parts: dict[str, Any] = {}
        for pattern, part in clip.parts:
            if pattern in parts:
                raise (path / "clips" / pattern).error("this pattern is given twice; the first wins")
            parts[pattern] = to_data(part, path / "clips" / pattern)
        return {"method": "by_name", "clips": parts}
    if isinstance(clip, Clip):
        return _single(clip, path)
    raise path.error(f"expected a clip such as clip_by_global_norm(1.0), got {show(clip)}")


def _single(clip: Clip, path: Path) -> dict[str, Any]:
    # A preset that takes no threshold names its policy, so it says more and is tried first.
    for entry in sorted(methods().values(), key=lambda entry: "threshold" in entry.parameters):
        arguments = _arguments(entry, clip)
        if _makes(entry, arguments, clip):
            return {"method": entry.name} | _pruned(entry, arguments, clip, path)
    raise path.error(f"{show(clip)} is not what any method makes")


def _arguments(entry: Entry, clip: Clip) -> dict[str, Any]:
    """What the entry would be given, were it the one that made the clip."""
    known: dict[str, Any] = {
        "per": clip.per,
        "norm": clip.norm,
        "action": clip.action,
        "patience": clip.patience,
        "on": clip.on,
    }
    if "threshold" not in entry.parameters and is_dataclass(clip.threshold):
        known |= {field.name: getattr(clip.threshold, field.name) for field in fields(clip.threshold)}
    elif isinstance(clip.threshold, tuple) and "low" in entry.parameters:
        known |= {"low": clip.threshold[0], "high": clip.threshold[1]}
    else:
        known["threshold"] = clip.threshold
    return {name: value for name, value in known.items() if name in entry.parameters}


def _makes(entry: Entry, arguments: Mapping[str, Any], wanted: object) -> bool:
    try:
        return bool(entry.make(**arguments) == wanted)
    except (ThresholdError, ArgumentError, TypeError):  # these arguments are not for this entry
        return False


def _pruned(entry: Entry, arguments: dict[str, Any], wanted: object, path: Path) -> dict[str, Any]:
    """The arguments in the entry's order, without those that change nothing."""
    kept = {name: arguments[name] for name in entry.parameters if name in arguments}
    for name in reversed(list(entry.parameters)):
        rest = {key: value for key, value in kept.items() if key != name}
        if name in kept and not entry.parameters[name].required and _makes(entry, rest, wanted):
            kept = rest
    return {name: _plain(value, path / name) for name, value in kept.items()}


def _plain(value: object, path: Path) -> Any:
    if isinstance(value, float) and math.isinf(value):
        return "inf" if value > 0 else "-inf"
    if isinstance(value, float):
        return float(value)  # numpy's float64 is a float too, and prints differently
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, tuple):
        return [_plain(item, path) for item in value]
    if isinstance(value, Threshold):
        return _policy(value, path)
    if callable(value):
        raise path.error(
            f"{show(value)} is a function, which a configuration cannot hold;"
            " use the schedules linear, cosine or exponential, or keep this clip in Python"
        )
    raise path.error(f"{show(value)} cannot be written in a configuration")


def _policy(policy: Threshold, path: Path) -> dict[str, Any]:
    entry = policies().get(type(policy).__name__)
    if entry is None or entry.make is not type(policy):
        raise path.error(
            f"{show(policy)} is not of clipwise.thresholds and has no name here; keep this clip in Python"
        )
    entry.refuse_unknown(path)
    arguments = {name: getattr(policy, name) for name in entry.parameters}
    return {"policy": entry.name} | _pruned(entry, arguments, policy, path)
