"""pydantic's errors as one line per mistake: ``training_parameters.batch_size: must be ..., got ...``."""

import difflib
from collections.abc import Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from clipwise.config.settings import ALGORITHM, DIRECT, OWN, SECTION
from clipwise.errors import did_you_mean

__all__ = ["explain", "shown"]

OTHERS = (*DIRECT, ALGORITHM)
"""The keys under which other libraries keep their clipping."""

RULES = {
    "greater_than": "above {gt:g}",
    "greater_than_equal": "at least {ge:g}",
    "less_than": "below {lt:g}",
    "less_than_equal": "at most {le:g}",
    "literal_error": "one of {expected}",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "string_type": "a string",
    "string_too_short": "at least {min_length} character long",
    "list_type": "a list",
    "model_type": "a mapping of keys to values",
    "dict_type": "a mapping of keys to values",
}


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """One line per mistake, in the order of the configuration; for unknown keys with the nearest known one.

    Args:
        error: the errors that pydantic found.
        model: the model that was validated, whose field names are the known keys.
    """
    return "\n".join(_line(detail, model) for detail in error.errors(include_url=False))


def _line(detail: ErrorDetails, model: type[BaseModel]) -> str:
    path = ".".join(str(part) for part in detail["loc"])
    kind = detail["type"]
    if kind == "extra_forbidden":
        key = str(detail["loc"][-1])
        known = _keys(model, detail["loc"][:-1])
        near = difflib.get_close_matches(key, (*known, *OTHERS), n=1, cutoff=0.8)
        if near and near[0] in OTHERS:
            return f"{path}: unknown key, it belongs under {SECTION}.{OWN}: {{{near[0]!r}: ...}}"
        return f"{path}: unknown key. {did_you_mean(key, known)}"
    if kind == "missing":
        allowed = get_args(model.model_fields[str(detail["loc"][-1])].annotation)
        return f"{path}: must be given, one of {', '.join(map(repr, allowed))}"
    if kind in RULES:
        return f"{path}: must be {RULES[kind].format(**detail.get('ctx', {}))}, got {shown(detail['input'])}"
    return f"{path}: {detail['msg']}, got {shown(detail['input'])}"


def _keys(model: type[BaseModel], path: Sequence[int | str]) -> list[str]:
    for part in path:
        section = model.model_fields[str(part)].annotation
        if isinstance(section, type) and issubclass(section, BaseModel):
            model = section
    # gradient_clipping may stand at the top as well.
    return [*model.model_fields, *([] if path else [OWN])]


def shown(value: Any) -> str:
    """The repr of a value for a message, shortened if it is long."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
