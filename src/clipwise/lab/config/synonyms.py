"""Accepts ``gradient_clipping`` at the top level, where other libraries have it."""

from collections.abc import Mapping
from typing import Any

from clipwise.config.settings import OWN, SECTION
from clipwise.errors import ConfigError

__all__ = ["with_clipping_in_its_section"]


def with_clipping_in_its_section(data: Mapping[str, Any]) -> dict[str, Any]:
    """A copy in which a top-level ``gradient_clipping`` has been moved to ``training_parameters``.

    Raises:
        ConfigError: the key is in both places.

    >>> with_clipping_in_its_section({"seed": 1, "gradient_clipping": "auto"})
    {'seed': 1, 'training_parameters': {'gradient_clipping': 'auto'}}
    """
    moved = dict(data)
    if OWN not in moved:
        return moved
    clipping, section = moved.pop(OWN), moved.get(SECTION, {})
    if not isinstance(section, Mapping):  # the error will be about the section
        return moved
    if OWN in section:
        raise ConfigError(f"{OWN} and {SECTION}.{OWN} contradict each other: give one of the two")
    return moved | {SECTION: dict(section) | {OWN: clipping}}
