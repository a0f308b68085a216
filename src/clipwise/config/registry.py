"""The names that a configuration may use, taken from the presets and policies themselves.

There is no second list: every preset that `clipwise.clip` exports and every policy that `clipwise.thresholds`
exports can be used in a configuration, with the parameters of its signature.
"""

import dataclasses
import functools
import inspect
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from clipwise import clip as presets
from clipwise import thresholds
from clipwise.clip import Clip
from clipwise.config.paths import Path
from clipwise.errors import ArgumentError, ConfigError, ThresholdError, did_you_mean

__all__ = [
    "COMBINATORS",
    "NONE",
    "Entry",
    "Parameter",
    "aliases",
    "find_method",
    "find_policy",
    "located",
    "method_names",
    "methods",
    "policies",
    "unknown_key",
]

COMBINATORS = ("chain", "by_name")
NONE = "none"
"""The method that is no clip."""


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One parameter of a preset or policy, and the values that its annotation allows."""

    name: str
    required: bool
    positional: bool
    number: bool = False
    whole: bool = False
    flag: bool = False
    none: bool = False
    policy: bool = False
    pair: bool = False
    function: bool = False
    words: tuple[str, ...] = ()
    unknown: str = ""
    """The annotation, where it is one that no configuration can hold."""

    @classmethod
    def of(cls, parameter: inspect.Parameter) -> "Parameter":
        hints = list(_alternatives(parameter.annotation))
        kinds = [_kind(hint) for hint in hints]
        return cls(
            name=parameter.name,
            required=parameter.default is inspect.Parameter.empty,
            positional=parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD,
            words=tuple(word for hint in hints if _kind(hint) == "words" for word in typing.get_args(hint)),
            unknown="" if None not in kinds else inspect.formatannotation(parameter.annotation),
            **{kind: True for kind in kinds if kind not in ("words", None)},
        )

    @property
    def expects(self) -> str:
        """The allowed values in words."""
        allowed = {
            "a number": self.number,
            "a whole number": self.whole and not self.number,
            "true or false": self.flag,
            "a pair [low, high]": self.pair,
            "a policy such as 'percentile(10)'": self.policy,
            "a Python function": self.function,
        }
        words = [repr(word) for word in self.words]
        return " or ".join([*(text for text, is_allowed in allowed.items() if is_allowed), *words])


@dataclass(frozen=True)
class Entry:
    """A preset or policy: its name, its constructor, its parameters, and a description in one line."""

    name: str
    make: Callable[..., Any]
    parameters: Mapping[str, Parameter]
    summary: str

    @classmethod
    def of(cls, name: str, make: Any) -> "Entry":
        try:
            signature = inspect.signature(make, eval_str=True)
        except NameError:  # a name that only type checkers know
            signature = inspect.signature(make)
        parameters = {p.name: Parameter.of(p) for p in signature.parameters.values()}
        return cls(name, make, parameters, (inspect.getdoc(make) or "").split("\n", 1)[0].replace("``", "`"))

    def __call__(self, arguments: Mapping[str, Any], path: Path) -> Any:
        """What it makes of the arguments; its own errors become ConfigErrors that name the key."""
        with located(path, self.parameters):
            return self.make(**arguments)

    @property
    def writable(self) -> bool:
        """Whether a configuration can describe it; a function cannot be written in one."""
        return not any(p.unknown or (p.function and p.required) for p in self.parameters.values())

    def refuse_unknown(self, path: Path) -> None:
        """ConfigError if the annotation of a parameter is one that no configuration can hold."""
        for parameter in self.parameters.values():
            if parameter.unknown:
                raise path.error(
                    f"{self.name} cannot be configured: its parameter {parameter.name!r} is annotated"
                    f" {parameter.unknown}, which no configuration can hold; make it in Python"
                )


@functools.cache
def methods() -> Mapping[str, Entry]:
    """Every preset, and ``clip``, the general form, as the last one."""
    found: dict[str, Any] = {name: getattr(presets, name) for name in presets.__all__}
    makers = {name: f for name, f in found.items() if inspect.isfunction(f) and name not in COMBINATORS}
    return {name: Entry.of(name, make) for name, make in [*makers.items(), ("clip", Clip)]}


@functools.cache
def policies() -> Mapping[str, Entry]:
    """Every threshold policy: the exported dataclasses with the two functions of a policy."""
    found: dict[str, Any] = {name: getattr(thresholds, name) for name in thresholds.__all__}
    return {
        name: Entry.of(name, policy)
        for name, policy in found.items()
        if dataclasses.is_dataclass(policy) and hasattr(policy, "init") and hasattr(policy, "update")
    }


@functools.cache
def aliases() -> Mapping[str, str]:
    """Short method names in common use: ``value`` for ``clip_by_value`` and so on, and ``agc``."""
    prefix = "clip_by_"
    short = {name.removeprefix(prefix): name for name in methods() if name.startswith(prefix)}
    return short | {"agc": "adaptive_grad_clip"}


def method_names() -> tuple[str, ...]:
    """Every name of a method, short ones last."""
    return (*methods(), *COMBINATORS, NONE, *aliases())


def find_method(name: str, path: Path) -> Entry:
    """The preset with this name or short name; otherwise ConfigError with the nearest name."""
    entry = methods().get(aliases().get(name, name))
    if entry is not None:
        entry.refuse_unknown(path)
        return entry
    if name in policies():
        raise path.error(
            f"{name!r} is a threshold policy, not a clip; write for example clip_by_global_norm({name}(...))"
        )
    raise path.error(f"unknown method {name!r}. {did_you_mean(name, method_names())}")


def find_policy(name: str, path: Path) -> Entry:
    """The policy with this name; otherwise ConfigError with the nearest name."""
    entry = policies().get(name)
    if entry is not None:
        entry.refuse_unknown(path)
        return entry
    if name in method_names():
        raise path.error(f"{name!r} is a clip; expected a number or a policy such as 'percentile(10)'")
    raise path.error(f"unknown policy {name!r}. {did_you_mean(name, policies())}")


def unknown_key(path: Path, key: str, known: Iterable[str]) -> ConfigError:
    """The exception for an unknown key."""
    return (path / key).error(f"unknown key. {did_you_mean(key, known)}")


@contextmanager
def located(path: Path, names: Iterable[str]) -> Iterator[None]:
    """Turn a constructor's error, which names an argument, into a ConfigError with the path."""
    try:
        yield
    except (ThresholdError, ArgumentError) as error:
        name, _, rest = str(error).partition(" ")
        about_one = name in names and rest.startswith("must ")
        where, message = (path / name, rest) if about_one else (path, str(error))
        raise where.error(message) from error


def _alternatives(hint: Any) -> Iterator[Any]:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        for part in typing.get_args(hint):
            yield from _alternatives(part)
    else:
        yield hint


def _kind(hint: Any) -> str | None:
    """Which field of `Parameter` a type sets, None for one that no configuration can hold."""
    plain = {
        float: "number",
        int: "whole",
        bool: "flag",
        types.NoneType: "none",
        thresholds.Threshold: "policy",
        tuple[float, float]: "pair",
    }
    if typing.get_origin(hint) is typing.Literal:
        return "words"
    if typing.get_origin(hint) is Callable:
        return "function"
    return next((kind for known, kind in plain.items() if hint == known), None)
