"""`ClipReport` as a pytree, and where the last one is in an optimizer's state."""

import dataclasses
import sys
from typing import Any

import jax
import jax.numpy as jnp

from clipwise.errors import StateError
from clipwise.functional.slots import Slot
from clipwise.namespace import Array
from clipwise.report import ClipReport

__all__ = ["blank_like", "known_to_flax", "report", "spread"]

_ARRAYS = [field.name for field in dataclasses.fields(ClipReport) if field.name != "names"]

jax.tree_util.register_dataclass(ClipReport, data_fields=_ARRAYS, meta_fields=["names"])


def report(opt_state: Any) -> ClipReport:
    """The report of the last step, found anywhere in the state of an optimizer.

    Where several clips report, in `optax.chain` or `optax.multi_transform`, it is the one that comes last in
    the state; give the part of the state that you mean for another.

    Args:
        opt_state: of `transform` or `attach`, alone or inside optax', flax' or your own state.

    Raises:
        StateError: there is none.

    >>> import jax.numpy as jnp, optax, clipwise, clipwise.jax
    >>> params = {"w": jnp.zeros(2)}
    >>> optimizer = optax.chain(clipwise.jax.transform(clipwise.clip_by_global_norm(1.0)), optax.sgd(0.1))
    >>> _, state = optimizer.update({"w": jnp.array([3.0, 4.0])}, optimizer.init(params), params)
    >>> print(clipwise.jax.report(state))
    norm 5 -> 1 (threshold 1, 100% clipped)
    """
    leaves = jax.tree.leaves(opt_state, is_leaf=lambda node: isinstance(node, ClipReport))
    found = [leaf for leaf in leaves if isinstance(leaf, ClipReport)]
    if not found:
        raise StateError(
            "no report in this state: it must be the state of an optimizer with clipwise.jax.transform or"
            f" clipwise.jax.attach, got {type(opt_state).__name__}"
        )
    return _unboxed(found[-1])


def _unboxed(found: ClipReport) -> ClipReport:
    """The report without the variables in which flax' nnx keeps the arrays of an optimizer's state."""
    changes: dict[str, Any] = {
        name: jax.tree.leaves(getattr(found, name))[0]
        for name in _ARRAYS
        if name != "parts" and getattr(found, name) is not None
    }
    changes["parts"] = {key: _unboxed(part) for key, part in found.parts.items()}
    return dataclasses.replace(found, **changes)


def blank_like(form: ClipReport) -> ClipReport:
    """A report of the same form, of no step: norm 0."""

    def full(like: Array | None, value: float) -> Array | None:
        return None if like is None else jnp.full(like.shape, value, like.dtype)

    return ClipReport(
        norm=full(form.norm, 0.0),
        norm_after=full(form.norm_after, 0.0),
        threshold=full(form.threshold, jnp.inf),
        clipped=full(form.clipped, False),
        clip_fraction=full(form.clip_fraction, 0.0),
        direction=full(form.direction, 1.0),
        # Of the parts these are plain numbers.
        nonfinite=full(jnp.asarray(0, jnp.int32), 0),
        skipped=full(jnp.asarray(False), False),
        names=form.names,
        tensor_norms=full(form.tensor_norms, 0.0) if form.names else None,
        parts={key: blank_like(part) for key, part in form.parts.items()},
    )


def spread(found: ClipReport, slots: tuple[Slot, ...]) -> ClipReport:
    """The report in the form it always has: a norm for each parameter, 0 where there was no gradient.

    Its parts say as arrays what they say as numbers.
    """
    names = tuple(slot.name for slot in slots)
    norms = found.tensor_norms
    if norms is not None and len(found.names) < len(names):
        given = iter(range(len(found.names)))
        present = set(found.names)
        zero = jnp.zeros((), norms.dtype)
        norms = jnp.stack([norms[next(given)] if name in present else zero for name in names])
    return dataclasses.replace(_as_arrays(found), names=names, tensor_norms=norms)


def _as_arrays(found: ClipReport) -> ClipReport:
    return dataclasses.replace(
        found,
        nonfinite=jnp.asarray(found.nonfinite, jnp.int32),
        skipped=jnp.asarray(found.skipped),
        parts={key: _as_arrays(part) for key, part in found.parts.items()},
    )


def known_to_flax() -> None:
    """Tell flax, where it is loaded, how to save a report: its checkpoints know tuples and dicts only."""
    serialization = sys.modules.get("flax.serialization")
    if serialization is None:
        return

    def saved(found: ClipReport) -> dict[str, Any]:
        return {name: serialization.to_state_dict(getattr(found, name)) for name in _ARRAYS}

    def restored(found: ClipReport, state: dict[str, Any]) -> ClipReport:
        fields = {
            name: serialization.from_state_dict(getattr(found, name), state[name], name=name)
            for name in _ARRAYS
        }
        return dataclasses.replace(found, **fields)

    serialization.register_serialization_state(ClipReport, saved, restored, override=True)
