"""All exceptions that clipwise raises on purpose.

::

    ClipwiseError
    ├── ThresholdError   (ValueError)    a threshold is negative, NaN, or not a number
    ├── ArgumentError    (ValueError)    another argument is not allowed
    ├── ConfigError      (ValueError)    a configuration cannot be understood
    ├── ParameterError   (ValueError)    the parameters do not fit the clip: no match, no weights, no loss
    ├── StateError       (RuntimeError)  a saved state does not fit, or a single call has no history
    ├── NonFiniteError   (RuntimeError)  a gradient is NaN or Inf and ``nonfinite="error"``
    ├── DataError        (RuntimeError)  data cannot be found, verified or understood
    ├── StoreError       (RuntimeError)  a recording cannot be found, read or understood
    ├── MissingPackageError  (ModuleNotFoundError)  an optional package is not installed
    └── TrainingStopped  (RuntimeError)  a rule of `clipwise.Monitor` stopped the training (action ``"stop"``)

Each message names the bad value and says what is allowed. Arguments are checked before anything is changed.
Catch `ClipwiseError` for all of them. Each is also the built-in exception in brackets, so that
``except ValueError`` works too.
"""

import difflib
from collections.abc import Iterable

__all__ = [
    "ArgumentError",
    "ClipwiseError",
    "ConfigError",
    "DataError",
    "MissingPackageError",
    "NonFiniteError",
    "ParameterError",
    "StateError",
    "StoreError",
    "ThresholdError",
    "TrainingStopped",
    "did_you_mean",
]


class ClipwiseError(Exception):
    """Base class of all exceptions that clipwise raises on purpose."""

    # Asked for by TensorFlow's AutoGraph, which would raise an exception of its own in place of this one.
    ag_pass_through = True


class ThresholdError(ClipwiseError, ValueError):
    """A threshold is negative, NaN, or not a number."""


class ArgumentError(ClipwiseError, ValueError):
    """An argument other than a threshold is not allowed."""


class ConfigError(ClipwiseError, ValueError):
    """A configuration cannot be understood; the message begins with the path of the key."""


class ParameterError(ClipwiseError, ValueError):
    """The parameters do not fit the clip: a pattern matches none, or a policy lacks weights or a loss."""


class StateError(ClipwiseError, RuntimeError):
    """A saved state does not fit this clip, or a policy with a history was used where none is kept."""


class NonFiniteError(ClipwiseError, RuntimeError):
    """A gradient holds NaN or Inf and ``nonfinite="error"``."""


class DataError(ClipwiseError, RuntimeError):
    """Data cannot be found, verified or understood."""


class StoreError(ClipwiseError, RuntimeError):
    """A recording cannot be found, read or understood."""


class MissingPackageError(ClipwiseError, ModuleNotFoundError):
    """An optional package is not installed; the message names the extra of clipwise that installs it."""


class TrainingStopped(ClipwiseError, RuntimeError):
    """A rule of `clipwise.Monitor` with the action ``"stop"`` raised an alert, which is the message."""


MOST = 50
"""Known names that a sentence lists."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A sentence with the nearest known name; without a near one, with all known names, at most ten.

    >>> did_you_mean("clip_by_nrom", ["clip_by_norm", "auto"])
    "Did you mean 'clip_by_norm'?"
    >>> did_you_mean("x", map(str, range(2000)))
    "Known: '0', '1', '2', '3', '4', '5', '6', '7', '8', '9' and 1,990 more."
    """
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if near:
        return f"Did you mean {near[0]!r}?"
    shown, more = (known, "") if len(known) <= MOST else (known[:10], f" and {len(known) - 10:,} more")
    return "Known: " + ", ".join(repr(k) for k in shown) + f"{more}."
