"""A report as one array: each array that a compiled step takes or gives costs time in every call."""

import dataclasses
import sys
from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from clipwise.namespace import Array
from clipwise.report import ClipReport

_BEFORE = {
    "norm": 0.0,
    "norm_after": 0.0,
    "threshold": float("inf"),
    "clipped": False,
    "clip_fraction": 0.0,
    "direction": 1.0,
    "nonfinite": 0,
    "skipped": False,
    "at_bound": 0.0,
}
"""The 0-d values in the order in which they are packed, and what they are before the first step."""

_DTYPES = {"clipped": jnp.bool_, "skipped": jnp.bool_, "nonfinite": jnp.int32}
"""Of those that are no norms; a float32 counts tensors exactly up to 16 million of them."""


@dataclasses.dataclass(frozen=True, slots=True)
class Form:
    """What a report is besides its numbers.

    Attributes:
        fields: the 0-d values that it has.
        names: of the tensors whose norms it holds.
        parts: the forms of its parts.
        reasons: what may hold its threshold.
    """

    fields: tuple[str, ...]
    names: tuple[str, ...]
    parts: tuple[tuple[str, "Form"], ...]
    reasons: tuple[str, ...] = ()

    def numbers(self) -> Iterator[float]:
        """What is packed before the first step, in order."""
        yield from (_BEFORE[name] for name in self.fields)
        yield from (0.0 for _ in self.reasons)
        yield from (0.0 for _ in self.names)
        for _, part in self.parts:
            yield from part.numbers()


@partial(jax.tree_util.register_dataclass, data_fields=["values"], meta_fields=["form"])
@dataclasses.dataclass(frozen=True)
class Packed:
    """A report as it is kept in an optimizer's state: a pytree of one array.

    Attributes:
        values: every number of it, along the last axis.
        form: which is which.
    """

    values: Array
    form: Form

    def copy(self) -> "Packed":
        """The same numbers in memory of their own; this does not wait for them."""
        (values,) = jax.tree.leaves(self.values)
        return Packed(jnp.copy(values), self.form)

    def on_host(self) -> ClipReport:
        """The report as numpy's arrays; this waits for them."""
        (values,) = jax.tree.leaves(self.values)
        return _read(Packed(np.asarray(values), self.form))


@partial(jax.tree_util.register_dataclass, data_fields=["packed"], meta_fields=[])
@dataclasses.dataclass(frozen=True)
class OfWeights:
    """The report of a clip of weights, which is not to be taken for that of the gradients."""

    packed: Packed


@partial(jax.tree_util.register_dataclass, data_fields=["packed"], meta_fields=[])
@dataclasses.dataclass(frozen=True)
class OfUpdates:
    """The report of a clip of updates, likewise."""

    packed: Packed


def form_of(report: ClipReport) -> Form:
    """The form of a report, whose arrays may be known by shape only."""
    fields = tuple(name for name in _BEFORE if getattr(report, name) is not None)
    parts = tuple((key, form_of(part)) for key, part in report.parts.items())
    return Form(fields, tuple(report.names), parts, tuple(report.held))


def blank(form: Form) -> Packed:
    """The report before the first step: norm 0."""
    return Packed(jnp.asarray(list(form.numbers()), jnp.result_type(float)), form)


def pack(report: ClipReport, form: Form) -> Packed:
    """A report of this form as one array."""
    dtype = jnp.result_type(float)

    def vectors(report: ClipReport, form: Form) -> Iterator[Array]:
        numbers = [getattr(report, name) for name in form.fields]
        numbers += [report.held[reason] for reason in form.reasons]
        yield jnp.stack([jnp.asarray(number, dtype) for number in numbers])
        if form.names:
            yield jnp.asarray(report.tensor_norms, dtype)
        for key, part in form.parts:
            yield from vectors(report.parts[key], part)

    return Packed(jnp.concat(list(vectors(report, form))), form)


def unpack(packed: Packed) -> ClipReport:
    """The report again, in the dtypes it had."""
    # flax' nnx keeps the arrays of an optimizer's state in variables.
    (values,) = jax.tree.leaves(packed.values)
    report: ClipReport = _unpacked(Packed(values, packed.form))
    return report


def _read(packed: Packed) -> ClipReport:
    values, start = packed.values, 0

    def read(form: Form) -> ClipReport:
        nonlocal start
        found: dict[str, Any] = {}
        for place, name in enumerate(form.fields, start):
            found[name] = values[..., place].astype(_DTYPES.get(name, values.dtype))
        start += len(form.fields)
        found["held"] = {reason: values[..., start + place] for place, reason in enumerate(form.reasons)}
        start += len(form.reasons)
        if form.names:
            found["tensor_norms"] = values[..., start : start + len(form.names)]
            start += len(form.names)
        parts = {key: read(part) for key, part in form.parts}
        return ClipReport(**found, names=form.names, parts=parts)

    return read(packed.form)


_unpacked = jax.jit(_read, inline=True)


def known_to_flax() -> None:
    """Tell flax, where it is loaded, how to save a report: its checkpoints know tuples and dicts only."""
    serialization = sys.modules.get("flax.serialization")
    if serialization is None:
        return

    def saved(packed: Packed) -> dict[str, Any]:
        return {"values": serialization.to_state_dict(packed.values)}

    def restored(packed: Packed, state: dict[str, Any]) -> Packed:
        values = serialization.from_state_dict(packed.values, state["values"], name="values")
        return Packed(values, packed.form)

    serialization.register_serialization_state(Packed, saved, restored, override=True)
    for kind in (OfWeights, OfUpdates):
        serialization.register_serialization_state(
            kind,
            lambda own: saved(own.packed),
            lambda own, state: type(own)(restored(own.packed, state)),
            override=True,
        )
