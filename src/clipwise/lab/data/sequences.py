"""Rows of a table as labelled sequences: grouped by key, ordered by time, split by time.

The target decides what an example is. If it is constant in every sequence (a label for a customer, a device,
a session), each sequence is one example. If it changes within sequences (a label for a transaction), each row
is one example: the row and the earlier rows of its sequence.

The latest fifth of the examples is held out. Means, deviations and known categories are computed from rows
before that.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import polars as pl
import torch
from torch import Tensor

from clipwise.errors import DataError
from clipwise.lab.data.frames import numbers, require_columns
from clipwise.lab.data.times import times

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

__all__ = ["SequenceData", "make_sequences"]

HELD_OUT = 0.2
MOST_CLASSES = 100
MOST_CATEGORIES = 255
"""The commonest values of a text column that are told apart; the rest share one."""


@dataclass(frozen=True)
class SequenceData:
    """A table of ``N`` rows, sorted by key and time.

    Attributes:
        numeric: ``(N, F)`` standardised features.
        categories: ``(N, C)`` text features as numbers, 0 for a value that is unknown in training.
        sizes: number of values of each text feature, including the unknown one.
        first: ``(N,)`` the first row of each row's sequence.
        labels: ``(N,)`` the class of each row.
        train, held_out: the last rows of the examples of each part.
        classes: the target's value for each class.
        features: names of the numeric, then of the text features.
        name: description for messages.
        summary: what was read and how it was split.
    """

    numeric: Tensor
    categories: Tensor
    sizes: tuple[int, ...]
    first: Tensor
    labels: Tensor
    train: Tensor
    held_out: Tensor
    classes: tuple[str, ...]
    features: tuple[str, ...]
    name: str
    summary: str


def make_sequences(
    frame: pl.DataFrame,
    *,
    key: str,
    time: str,
    target: str,
    features: Sequence[str] | None = None,
    name: str,
    gaps: bool = True,
) -> SequenceData:
    """Turn a table into labelled sequences.

    Args:
        frame: the table, in any order.
        key, time, target: its columns.
        features: the columns that the model sees; None: all others.
        name: description for messages.
        gaps: add the time since the previous row as a feature, ``log(1 + difference)``.

    Raises:
        DataError: a column is missing, the target has one class or too many, or a part is empty.
    """
    others = [column for column in frame.columns if column not in (key, time, target)]
    columns = [("sequence_key", key), ("time_column", time), ("target", target)]
    require_columns(frame, columns + [("features", f) for f in features or ()], name)
    if target in (features or ()):
        raise DataError(
            f"{name}: data.features names the target {target!r} itself; the model would see the answer"
        )
    frame = frame.with_columns(times(frame, time, name).alias(time)).drop_nulls(key)
    frame = frame.sort(key, time, maintain_order=True)
    keys = frame[key].rle_id().to_numpy()
    labels, classes = _classes(frame[target], target, name)
    moment = frame[time].to_numpy()
    ends, per_row = _examples(keys, labels)
    train, held_out = _split(ends, moment, labels, classes, f"{name}: column {target!r} (data.target)")
    known = moment <= moment[train].max() if per_row else np.isin(keys, keys[train])

    starts = np.flatnonzero(np.diff(keys, prepend=-1))
    first = starts[keys]
    numeric, numeric_names, missing = _numeric(frame, features or others, known, name)
    if gaps:
        gap = np.log1p(np.where(np.arange(len(keys)) == first, 0.0, np.diff(moment, prepend=moment[0])))
        numeric.append(_standardised(gap, known))
        numeric_names.append(f"log time since the {key}'s row before")
    coded, sizes, text_names = _categories(frame, features or others, known)
    if not numeric and not coded:
        raise DataError(f"{name}: no column is left to learn from besides {key!r}, {time!r} and {target!r}")
    share = np.mean(labels[train] == len(classes) - 1)
    summary = (
        f"{name}: {len(ends):,} examples ({'one a row' if per_row else f'one a {key}'}) from {len(starts):,}"
        f" sequences, the {len(held_out):,} latest held out; {len(classes)} classes"
        + (f", {share:.1%} {target} = {classes[1]}" if len(classes) == 2 else "")
        + (f"; {missing:,} missing numbers set to the mean and marked" if missing else "")
    )
    empty = np.zeros((len(frame), 0))
    return SequenceData(
        torch.tensor(np.stack(numeric, axis=1) if numeric else empty, dtype=torch.float32),
        torch.tensor(np.stack(coded, axis=1) if coded else empty, dtype=torch.int64),
        tuple(sizes),
        torch.tensor(first),
        torch.tensor(labels),
        torch.tensor(train),
        torch.tensor(held_out),
        classes,
        (*numeric_names, *text_names),
        name,
        summary,
    )


def _classes(series: pl.Series, target: str, name: str) -> tuple[Array, tuple[str, ...]]:
    """Each row's class, -1 where the target is missing, and the values of the classes in order."""
    values = series.drop_nulls().unique().sort()
    where = f"{name}: column {target!r} (data.target)"
    if len(values) < 2:
        raise DataError(
            f"{where} holds {'one class only' if len(values) else 'no value'}: {values.to_list()}"
        )
    if len(values) > MOST_CLASSES:
        raise DataError(
            f"{where} must hold classes, at most {MOST_CLASSES}; it holds {len(values):,} different values"
        )
    number = {value: i for i, value in enumerate(values.to_list())}
    labels = np.array([number.get(value, -1) for value in series.to_list()], dtype=np.int64)
    return labels, tuple(str(value) for value in values)


def _examples(keys: Array, labels: Array) -> tuple[Array, bool]:
    """The rows on which examples end, and whether every row is one."""
    same_key = keys[1:] == keys[:-1]
    per_row = bool(np.any(same_key & (labels[1:] != labels[:-1])))
    ends = np.arange(len(keys)) if per_row else np.flatnonzero(np.append(~same_key, True))
    return ends[labels[ends] >= 0], per_row


def _split(
    ends: Array, moment: Array, labels: Array, classes: tuple[str, ...], where: str
) -> tuple[Array, Array]:
    when = moment[ends]
    cut = np.quantile(when, 1 - HELD_OUT, method="lower")
    train, held_out = ends[when <= cut], ends[when > cut]
    for part, words in ((train, "the training part"), (held_out, "the held-out part, the latest fifth")):
        found = np.unique(labels[part])
        if len(found) < (2 if part is held_out else len(classes)):
            seen = ", ".join(repr(classes[i]) for i in found) or "nothing"
            raise DataError(
                f"{where}: {words}, holds {seen} alone of {len(classes)} classes; more rows are needed"
            )
    return train, held_out


def _numeric(
    frame: pl.DataFrame, columns: Sequence[str], known: Array, name: str
) -> tuple[list[Array], list[str], int]:
    """Standardised columns, a mark of what was missing beside each that has gaps, and how many gaps."""
    found: list[Array] = []
    names: list[str] = []
    total = 0
    for column in columns:
        if not (frame[column].dtype.is_numeric() or frame[column].dtype == pl.Boolean):
            continue
        values = numbers(frame, "features", column, name).to_numpy().astype(np.float64)
        missing = np.isnan(values)
        found.append(_standardised(values, known & ~missing))
        names.append(column)
        if missing.any():
            total += int(missing.sum())
            found.append(missing.astype(np.float64))
            names.append(f"{column} is missing")
    return found, names, total


def _standardised(values: Array, known: Array) -> Array:
    """``(x - mean) / deviation`` of the known rows; what is missing becomes the mean."""
    if not known.any():
        return np.zeros_like(values)
    deviation = values[known].std()
    scaled: Array = (values - values[known].mean()) / (deviation if deviation > 0 else 1.0)
    scaled[np.isnan(scaled)] = 0.0
    return scaled


def _categories(
    frame: pl.DataFrame, columns: Sequence[str], known: Array
) -> tuple[list[Array], list[int], list[str]]:
    found: list[Array] = []
    sizes: list[int] = []
    names: list[str] = []
    for column in columns:
        if frame[column].dtype.is_numeric() or frame[column].dtype == pl.Boolean:
            continue
        text = frame[column].cast(pl.String)
        counts = text.filter(pl.Series(known)).drop_nulls().value_counts(sort=True, name="n")
        # Ties in the count are broken by name, so that the numbering does not depend on the row order.
        common = counts.sort(["n", column], descending=[True, False])[column].head(MOST_CATEGORIES).to_list()
        number = {value: i + 1 for i, value in enumerate(common)}
        found.append(np.array([number.get(value, 0) for value in text.to_list()], dtype=np.int64))
        sizes.append(len(common) + 1)
        names.append(column)
    return found, sizes, names
