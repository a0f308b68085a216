"""Clips as dicts, JSON, YAML and short strings, in both directions, and settings of other libraries.

>>> parse("clip_by_global_norm(percentile(10))") == parse({"method": "autoclip", "q": 10})
True
"""

from typing import Any, overload

from clipwise.clip import AnyClip
from clipwise.config import settings as _settings
from clipwise.config import strings as _strings
from clipwise.config.files import load
from clipwise.config.paths import Path as _Path
from clipwise.config.schema import schema
from clipwise.config.write import to_data as _to_data

__all__ = ["load", "parse", "schema", "to_dict", "to_string"]


def parse(spec: object) -> AnyClip | None:
    """The clip that a string, a mapping or a clip describes; None for no clipping.

    Args:
        spec: one of

            - a clip or None, which is returned unchanged;
            - a string such as ``"clip_by_norm(1.0)"``, ``"auto"`` or ``"none"``, which is parsed and never
              evaluated;
            - a mapping with a ``method``: ``{"method": "clip_by_norm", "threshold": 1.0}``;
            - settings that hold one of these under ``gradient_clipping``, at the top or in
              ``training_parameters``;
            - settings of Keras (``clipnorm``, ``global_clipnorm``, ``clipvalue``), the Hugging Face Trainer
              (``max_grad_norm``), Lightning (``gradient_clip_val``) or DeepSpeed (``gradient_clipping``).

    Raises:
        ConfigError: the description cannot be understood; the message begins with the path of the key.

    >>> parse({"gradient_clipping": {"method": "clip_by_norm", "threshold": 1.0}})
    Clip(threshold=1.0, per='tensor', norm=2.0)
    >>> parse({"gradient_clipping": {"method": "clip_by_norm", "treshold": 1.0}})
    Traceback (most recent call last):
    clipwise.errors.ConfigError: gradient_clipping.treshold: unknown key. Did you mean 'threshold'?
    """
    return _settings.read(spec, _Path.to_read())


@overload
def to_dict(clip: AnyClip) -> dict[str, Any]: ...
@overload
def to_dict(clip: None) -> None: ...
@overload
def to_dict(clip: AnyClip | None) -> dict[str, Any] | None: ...
def to_dict(clip: AnyClip | None) -> dict[str, Any] | None:
    """The clip as a dict that JSON can hold: ``parse(to_dict(clip)) == clip``.

    A preset's name is used if a preset makes this clip. Arguments with their default values are left out, and
    infinity is the string ``"inf"``. None, no clipping, stays None.

    Raises:
        ConfigError: the clip holds a function (`thresholds.schedule`) or a policy that is not part of
            `clipwise.thresholds`.

    >>> from clipwise import clip_by_norm
    >>> to_dict(clip_by_norm(1.0))
    {'method': 'clip_by_norm', 'threshold': 1.0}
    """
    return _to_data(clip, _Path())


def to_string(clip: AnyClip | None) -> str:
    """The clip as a short string: ``parse(to_string(clip)) == clip``; ``"none"`` for None.

    Raises:
        ConfigError: as for `to_dict`, or the string would be longer than `parse` accepts.

    >>> from clipwise import chain, clip_by_global_norm, clip_by_value
    >>> to_string(chain(clip_by_value(5.0), clip_by_global_norm(1.0)))
    'chain(clip_by_value(5.0), clip_by_global_norm(1.0))'
    """
    return _strings.write(_to_data(clip, _Path()))
