"""The JSON Schema of a configuration, for editors, generated from the same registry that parsing uses."""

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
from clipwise.config.settings import ALGORITHM, DIRECT, OWN, SECTION
from clipwise.errors import ClipwiseError

__all__ = ["schema"]

_TITLE = "clipwise gradient clipping"
_NUMBER: dict[str, Any] = {"type": "number"}
_INFINITE: dict[str, Any] = {"enum": ["inf", "-inf"]}


def schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of what `load` and `parse` accept.

    It knows names, types and required keys. What depends on several keys at once, such as a range that is
    crossed or settings that contradict each other, only `parse` finds.

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
                "description": "A clip, as a mapping with a method or as a text such as 'clip_by_global_norm(1.0)'.",
                "anyOf": [
                    {"type": "null"},
                    _text((*method_names(), "None")),
                    *(_ref(f"method.{entry.name}") for entry in singles),
                    *(_ref(f"method.{name}") for name in COMBINATORS),
                    _object({"method": {"enum": [NONE, None]}}, ["method"], "No clipping."),
                ],
            },
            "policy": {
                "description": "A threshold that follows the run, as a mapping or as a text such as 'percentile(10)'.",
                "anyOf": [
                    _text(tuple(entry.name for entry in known_policies)),
                    *(_ref(f"policy.{entry.name}") for entry in known_policies),
                ],
            },
            **{f"method.{entry.name}": _entry(entry, "method", _names(entry)) for entry in singles},
            **{f"policy.{entry.name}": _entry(entry, "policy", [entry.name]) for entry in known_policies},
            **_combinators(),
            "settings": _settings(),
        },
    }


def _entry(entry: Entry, tag: str, names: list[str]) -> dict[str, Any]:
    properties = {name: _parameter(parameter) for name, parameter in entry.parameters.items()}
    required = [tag, *(name for name, parameter in entry.parameters.items() if parameter.required)]
    made = _object({tag: {"enum": names}} | properties, required, entry.summary)
    try:
        entry.make(**{name: 1 for name in required[1:]})
    except ClipwiseError:  # none of its parameters is required, yet it needs one of them
        made["minProperties"] = len(required) + 1
    return made


def _parameter(parameter: Parameter) -> dict[str, Any]:
    options: list[dict[str, Any]] = []
    if parameter.number:
        # Only a threshold is known to have a least value, and so no infinite one below.
        options += (
            [_NUMBER | {"minimum": 0}, {"const": "inf"}] if parameter.policy else [_NUMBER, _INFINITE]
        )
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
    summaries = {
        "chain": "Clips one after the other, each applied to what the one before it left.",
        "by_name": "A clip for each part of the model, by patterns of parameter names; the first match wins.",
    }
    return {
        f"method.{name}": _object({"method": {"const": name}, "clips": clips}, ["method", "clips"], summaries[name])
        for name, clips in (("chain", chain), ("by_name", by_name))
    }


def _settings() -> dict[str, Any]:
    number = {"anyOf": [{"type": ["number", "null"], "minimum": 0}, {"const": "inf"}]}
    direct = {
        key: number | {"description": f"{library}: {make.__name__}; null and 0 clip nothing."}
        for key, (library, make) in DIRECT.items()
    }
    nested = {"anyOf": [_ref("clip"), {"type": "number", "minimum": 0}, _ref("settings")]}
    properties = {
        OWN: nested | {"description": "The clip; a number is the global norm, as in DeepSpeed, and 0 clips nothing."},
        SECTION: {"type": "object", "description": "Settings of a training, which may hold gradient_clipping."},
        **direct,
        ALGORITHM: {"enum": ["norm", "value", None], "description": "Lightning: global norm or value."},
    }
    return {
        "type": "object",
        "description": "Settings that hold a clip; the keys of other libraries beside it are ignored.",
        "properties": properties,
        "anyOf": [{"required": [key]} for key in (OWN, SECTION, *DIRECT)],
        "not": {"required": ["method"]},
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
