"""Every exception that clipwise raises on purpose.

::

    ClipwiseError
    ├── ThresholdError   (ValueError)    a threshold is negative, NaN, or no number at all
    ├── ArgumentError    (ValueError)    another argument is outside what is allowed
    ├── ConfigError      (ValueError)    a configuration cannot be understood
    ├── ParameterError   (ValueError)    the parameters do not fit the clip: no match, no weights, no loss
    ├── StateError       (RuntimeError)  a saved state does not fit, or a history was asked of a single call
    ├── NonFiniteError   (RuntimeError)  a gradient is NaN or Inf and ``nonfinite="error"``
    ├── DataError        (RuntimeError)  data cannot be found, verified or understood
    ├── StoreError       (RuntimeError)  a recording cannot be found, read or understood
    ├── MissingPackageError  (ModuleNotFoundError)  an optional package is not installed
    └── TrainingStopped  (RuntimeError)  a rule of `clipwise.Monitor` was told to stop the training, and did

Each message names the value, says what is allowed, and comes before anything was touched. Catch
`ClipwiseError` for all of them; each is also the built-in class in brackets, so ``except ValueError`` works.
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
    """Base of every exception that clipwise raises on purpose."""

    # Asked for by TensorFlow's AutoGraph, which would raise an exception of its own in place of this one.
    ag_pass_through = True


class ThresholdError(ClipwiseError, ValueError):
    """A threshold is negative, NaN, or no number at all."""


class ArgumentError(ClipwiseError, ValueError):
    """An argument other than a threshold is outside what is allowed."""


class ConfigError(ClipwiseError, ValueError):
    """A configuration cannot be understood; the message begins with the path of the key."""


class ParameterError(ClipwiseError, ValueError):
    """The parameters do not fit the clip: a pattern matches none, or a policy misses what it observes."""


class StateError(ClipwiseError, RuntimeError):
    """A saved state does not fit this clip, or a policy with a history was used without keeping one."""


class NonFiniteError(ClipwiseError, RuntimeError):
    """A gradient holds NaN or Inf and ``nonfinite="error"`` was asked for."""


class DataError(ClipwiseError, RuntimeError):
    """Data cannot be found, verified or understood."""


class StoreError(ClipwiseError, RuntimeError):
    """A recording cannot be found, read or understood."""


class MissingPackageError(ClipwiseError, ModuleNotFoundError):
    """An optional package is not installed; the message says which extra of clipwise brings it."""


class TrainingStopped(ClipwiseError, RuntimeError):
    """A rule of `clipwise.Monitor` with the action ``"stop"`` raised an alert; the message says why."""


MOST = 50
"""Known names that a sentence lists."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A sentence naming the nearest known name; where none is near all of them, or the first of very many.

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
