"""A clip inside of larger settings: under ``gradient_clipping``, or in the keys of other libraries.

A mapping with one of the keys in `SETTINGS` is a settings mapping. Its other keys belong to another library
and are ignored, with two exceptions that would hide a mistake and are errors: a key of a clip (``threshold``
beside ``max_grad_norm``), and a misspelt settings key (``clip_norm``).
"""

import difflib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from clipwise.checks import check_number, is_number
from clipwise.clip import AnyClip, clip_by_global_norm, clip_by_norm, clip_by_value
from clipwise.config.containers import Keys
from clipwise.config.dicts import clip_from, number_from
from clipwise.config.elsewhere import OF_OTHERS, TARGET, deeper, for_hydra
from clipwise.config.paths import Path, show
from clipwise.config.registry import located

__all__ = ["ALGORITHM", "CLIP_KEYS", "DIRECT", "OWN", "SECTION", "SETTINGS", "read"]

OWN = "gradient_clipping"
SECTION = "training_parameters"
ALGORITHM = "gradient_clip_algorithm"
_LIGHTNING = "gradient_clip_val"

DIRECT: Mapping[str, tuple[str, Callable[[float], AnyClip]]] = {
    "clipnorm": ("Keras", clip_by_norm),
    "global_clipnorm": ("Keras", clip_by_global_norm),
    "clipvalue": ("Keras", clip_by_value),
    "max_grad_norm": ("Hugging Face Trainer", clip_by_global_norm),
    _LIGHTNING: ("Lightning", clip_by_global_norm),
}
"""Keys of other libraries that hold a number: whose they are, what they mean. None and 0 clip nothing."""

_ALGORITHMS: Mapping[str, Callable[[float], AnyClip]] = {"norm": clip_by_global_norm, "value": clip_by_value}

SETTINGS = (OWN, SECTION, *DIRECT, ALGORITHM)
_HOLDERS = (OWN, *DIRECT)
_NAMES = ", ".join(map(repr, SETTINGS))
CLIP_KEYS = ("method", "clips", "threshold", "per", "norm", "low", "high")
_OF_DEEPSPEED = ("zero_optimization", "train_batch_size", "train_micro_batch_size_per_gpu")


@dataclass(frozen=True)
class _Found:
    """One setting: where it stands, whether it was given at all (None is not), and the clip it means."""

    path: Path
    given: bool
    clip: AnyClip | None


def read(spec: object, path: Path) -> AnyClip | None:
    """The clip that a settings mapping, a clip's own mapping, or a string describes.

    >>> read({"max_grad_norm": 1.0, "learning_rate": 5e-5}, Path())
    Clip(threshold=1.0, per='global', norm=2.0)
    """
    if not isinstance(spec, Mapping):
        return clip_from(spec, path)
    spec = Keys(spec, path)
    if not any(key in SETTINGS for key in spec):
        if TARGET in spec and "method" not in spec and _is_ours(spec[TARGET]):
            raise for_hydra(spec[TARGET], path)
        if "method" not in spec and not any(key in CLIP_KEYS for key in spec):
            _check_others(spec, path, ("method", *SETTINGS), cutoff=0.75)
            raise path.error(
                f"no clipping found; expected 'method' or one of {_NAMES}{deeper(spec, path, _HOLDERS)}"
            )
        return clip_from(spec, path)
    settings = list(_settings(spec, path))
    if not settings:  # training_parameters, and nothing in it
        hint = deeper(spec[SECTION], path / SECTION, _HOLDERS)
        raise (path / SECTION).error(f"no clipping found; expected one of {_NAMES}{hint}")
    given = [setting for setting in settings if setting.given]
    if len(given) > 1:
        raise given[1].path.error(f"contradicts {given[0].path}; keep one of the two")
    return given[0].clip if given else None


def _is_ours(target: object) -> bool:
    return isinstance(target, str) and target.partition(".")[0] == "clipwise"


def _settings(data: Keys, path: Path) -> Iterator[_Found]:
    present = [key for key in SETTINGS if key in data]
    _check_others(data, path, SETTINGS, cutoff=0.85)
    if not present:
        return
    for key in CLIP_KEYS:
        if key in data:
            raise (path / key).error(
                f"a key of a clip beside {present[0]!r}; put it inside, or parse {present[0]!r} alone"
            )
    if OWN in data:
        yield _own(data, path)
    if SECTION in data:
        section = data[SECTION]
        if not isinstance(section, Mapping):
            raise (path / SECTION).error(f"must be a mapping, got {show(section)}")
        yield from _settings(Keys(section, path / SECTION), path / SECTION)
    for key, (_, make) in DIRECT.items():
        if key in data:
            value = data[key]
            chosen = _algorithm(data, path) or make if key == _LIGHTNING else make
            yield _Found(path / key, value is not None, _bounded(value, chosen, path, key))
    if ALGORITHM in data and _LIGHTNING not in data:
        raise (path / ALGORITHM).error(f"says how to clip, but {_LIGHTNING!r}, the threshold, is missing")


def _own(data: Mapping[Any, Any], path: Path) -> _Found:
    value, here = data[OWN], path / OWN
    if is_number(value):  # as DeepSpeed writes it
        return _Found(here, True, _bounded(value, clip_by_global_norm, path, OWN))
    if value == "auto" and any(key in data for key in _OF_DEEPSPEED):
        raise here.error(
            "'auto' in a DeepSpeed configuration stands for the Trainer's max_grad_norm; write the number"
        )
    return _Found(here, value is not None, read(value, here))


def _bounded(value: object, make: Callable[[float], AnyClip], path: Path, key: str) -> AnyClip | None:
    """The clip with this number as its threshold; None where it is None or 0, as these libraries read it."""
    if value is None:
        return None
    number = number_from(value, path / key)
    with located(path, (key,)):
        return make(check_number(key, number)) if number else None


def _algorithm(data: Mapping[Any, Any], path: Path) -> Callable[[float], AnyClip] | None:
    name = data.get(ALGORITHM)
    if name is None:
        return None
    found = _ALGORITHMS.get(name.lower()) if isinstance(name, str) else None
    if found is None:
        raise (path / ALGORITHM).error(f"must be 'norm' or 'value', got {show(name)}")
    return found


def _check_others(data: Mapping[Any, Any], path: Path, known: tuple[str, ...], *, cutoff: float) -> None:
    """Refuse a key that is nearly, but not quite, one that means something."""
    for key in data:
        if isinstance(key, str) and key in OF_OTHERS:
            raise (path / key).error(f"unknown key. {OF_OTHERS[key]}")
        if isinstance(key, str) and key not in known:
            for near in difflib.get_close_matches(key, known, n=1, cutoff=cutoff):
                raise (path / key).error(f"unknown key. Did you mean {near!r}?")
