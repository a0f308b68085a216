"""The JSON Schema of a configuration, for editors, generated from the registry that is used for parsing."""

import re
from typing import Any

from clipwise.config.registry import (
    COMBINATORS,
    NONE,
    Entry,
    Parameter,
    aliases,
    method_names,
    methods,
    policies,
)
from clipwise.config.settings import ALGORITHM, CLIP_KEYS, DIRECT, OWN, SECTION
from clipwise.errors import ClipwiseError

__all__ = ["schema"]

_TITLE = "clipwise gradient clipping"
_NUMBER: dict[str, Any] = {"type": "number"}
_INFINITE: dict[str, Any] = {"enum": ["inf", "-inf"]}


def schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of what `load` and `parse` accept.

    It covers names, types and required keys. Conditions on several keys at once, such as ``low < high`` or
    settings that contradict each other, are checked by `parse` only.

    >>> schema()["$schema"]
    'https://json-schema.org/draft/2020-12/schema'
    """
    singles = [entry for entry in methods().values() if entry.writable]
    known_policies = [entry for entry in policies().values() if entry.writable]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": _TITLE,
        "description": "A clip, or settings that hold one; see docs/configuration.md.",
        "anyOf": [_ref("clip"), _ref("settings")],
        "$defs": {
            "clip": {
                "description": "A mapping with a method, or a string such as 'clip_by_global_norm(1.0)'.",
                "anyOf": [
                    {"type": "null"},
                    _text((*method_names(), "None")),
                    *(_ref(f"method.{entry.name}") for entry in singles),
                    *(_ref(f"method.{name}") for name in COMBINATORS),
                    _object({"method": {"enum": [NONE, None]}}, ["method"], "No clipping."),
                ],
            },
            "policy": {
                "description": "A mapping with a policy, or a string such as 'percentile(10)'.",
                "anyOf": [
                    _text(tuple(entry.name for entry in known_policies)),
                    *(_ref(f"policy.{entry.name}") for entry in known_policies),
                ],
            },
            **{f"method.{entry.name}": _entry(entry, "method", _names(entry)) for entry in singles},
            **{f"policy.{entry.name}": _entry(entry, "policy", [entry.name]) for entry in known_policies},
            **_combinators(),
            **_settings(),
        },
    }


def _entry(entry: Entry, tag: str, names: list[str]) -> dict[str, Any]:
    properties = {name: _parameter(parameter) for name, parameter in entry.parameters.items()}
    required = [tag, *(name for name, parameter in entry.parameters.items() if parameter.required)]
    made = _object({tag: {"enum": names}} | properties, required, entry.summary)
    if required == [tag]:
        try:
            entry.make()
        except ClipwiseError:  # no parameter is required, yet it needs one of them
            made["minProperties"] = 2
    return made


def _parameter(parameter: Parameter) -> dict[str, Any]:
    options: list[dict[str, Any]] = []
    if parameter.number:
        # Only a threshold is known to have a least value, and so no infinite one below.
        options += [_NUMBER | {"minimum": 0}, {"const": "inf"}] if parameter.policy else [_NUMBER, _INFINITE]
    if parameter.whole and not parameter.number:
        options.append({"type": "integer"})
    if parameter.flag:
        options.append({"type": "boolean"})
    if parameter.none:
        options.append({"type": "null"})
    if parameter.policy:
        options.append(_ref("policy"))
    if parameter.pair:
        item = {"anyOf": [_NUMBER, _INFINITE]}
        options.append({"type": "array", "items": item, "minItems": 2, "maxItems": 2})
    if parameter.words:
        options.append({"enum": list(parameter.words)})
    return options[0] if len(options) == 1 else {"anyOf": options}


def _combinators() -> dict[str, Any]:
    item = {"allOf": [_ref("clip")], "not": {"enum": [None, NONE, "None"]}}
    chain = {"type": "array", "items": item, "minItems": 1}
    by_name = {"type": "object", "additionalProperties": _ref("clip"), "minProperties": 1}
    return {
        f"method.{name}": _object({"method": {"const": name}, "clips": clips}, ["method", "clips"], summary)
        for name, clips, summary in (
            ("chain", chain, "Clips one after the other, each applied to what the one before it left."),
            ("by_name", by_name, "A clip for each part of the model; the first pattern that matches wins."),
        )
    }


def _settings() -> dict[str, Any]:
    number = {"anyOf": [{"type": ["number", "null"], "minimum": 0}, {"const": "inf"}]}
    direct = {
        key: number | {"description": f"{library}: {make.__name__}; null and 0 clip nothing."}
        for key, (library, make) in DIRECT.items()
    }
    nested = {"anyOf": [_ref("clip"), {"type": "number", "minimum": 0}, _ref("settings")]}
    keys = {
        OWN: nested | {"description": "The clip; a number is the global norm, as in DeepSpeed."},
        SECTION: _ref("settings.keys") | {"description": "Settings that may hold gradient_clipping."},
        **direct,
        ALGORITHM: {"enum": ["norm", "value", None], "description": "Lightning: global norm or value."},
    }
    return {
        "settings": {
            "description": "Settings that hold a clip; other keys of the same settings are ignored.",
            "allOf": [_ref("settings.keys")],
            "anyOf": [{"required": [key]} for key in (OWN, SECTION, *DIRECT)],
            "propertyNames": {"not": {"enum": list(CLIP_KEYS)}},
        },
        "settings.keys": {"type": "object", "properties": keys},
    }


def _object(properties: dict[str, Any], required: list[str], description: str) -> dict[str, Any]:
    return {
        "type": "object",
        "description": description,
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


def _names(entry: Entry) -> list[str]:
    return [entry.name, *(short for short, name in aliases().items() if name == entry.name)]


def _text(names: tuple[str, ...]) -> dict[str, Any]:
    return {"type": "string", "pattern": rf"^\s*({'|'.join(map(re.escape, names))})\s*(\([\s\S]*\))?\s*$"}


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/$defs/{name}"}
