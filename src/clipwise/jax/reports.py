"""`ClipReport` as a pytree, and how to find the last one in an optimizer's state."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from clipwise.errors import StateError
from clipwise.functional.slots import Slot
from clipwise.jax._packed import OfUpdates, OfWeights, Packed, unpack
from clipwise.report import ClipReport

__all__ = ["packed_report", "report", "spread", "updates_report", "weights_report"]

_STATIC = ["names", "normalised"]
_ARRAYS = [field.name for field in dataclasses.fields(ClipReport) if field.name not in _STATIC]

jax.tree_util.register_dataclass(ClipReport, data_fields=_ARRAYS, meta_fields=_STATIC)


def report(opt_state: Any) -> ClipReport:
    """The report of the last step, found in the state of an optimizer.

    If several clips report, as in `optax.chain` or `optax.multi_transform`, it is the one that comes last in
    the state. For another one pass the corresponding part of the state.

    Args:
        opt_state: state of `transform` or `attach`, alone or inside a state of optax, flax or your own.

    Raises:
        StateError: the state holds no report.

    >>> import jax.numpy as jnp, optax, clipwise, clipwise.jax
    >>> params = {"w": jnp.zeros(2)}
    >>> optimizer = optax.chain(clipwise.jax.transform(clipwise.clip_by_global_norm(1.0)), optax.sgd(0.1))
    >>> _, state = optimizer.update({"w": jnp.array([3.0, 4.0])}, optimizer.init(params), params)
    >>> print(clipwise.jax.report(state))
    norm 5 -> 1 (threshold 1, 100% clipped)
    """
    return unpack(_last(opt_state))


def weights_report(opt_state: Any) -> ClipReport:
    """The report of the last clipping of weights, by `clip_weights` or ``attach(..., weights=)``.

    Its ``at_bound`` is the share of the weights at the bound.

    Args:
        opt_state: as for `report`.

    Raises:
        StateError: the state holds no report of weights.

    >>> import jax.numpy as jnp, optax, clipwise, clipwise.jax
    >>> params = {"w": jnp.array([0.5, 0.0])}
    >>> optimizer = optax.chain(optax.sgd(1.0), clipwise.jax.clip_weights("clip_by_value(0.01)"))
    >>> _, state = optimizer.update({"w": jnp.zeros(2)}, optimizer.init(params), params)
    >>> float(clipwise.jax.weights_report(state).at_bound)
    0.5
    """
    found = _found(opt_state, OfWeights)
    if not found:
        raise StateError(
            "no report of weights in this state: it must be the state of an optimizer with"
            f" clipwise.jax.clip_weights, or attach with weights=, got {type(opt_state).__name__}"
        )
    return unpack(found[-1].packed)


def updates_report(opt_state: Any) -> ClipReport:
    """As `report`, of what ``attach(..., updates=)`` did to the last update: norms of ``update / lr``.

    Raises:
        StateError: there is none.

    >>> import jax.numpy as jnp, optax, clipwise, clipwise.jax
    >>> optimizer = clipwise.jax.attach(
    ...     optax.sgd(0.1), updates=clipwise.clip_by_block_rms(1.0), learning_rate=0.1)
    >>> params = {"w": jnp.zeros(2)}
    >>> _, state = optimizer.update({"w": jnp.array([3.0, 3.0])}, optimizer.init(params), params)
    >>> print(clipwise.jax.updates_report(state))
    norm 3 -> 1 (threshold 1, 100% clipped)
    """
    found = _found(opt_state, OfUpdates)
    if not found:
        raise StateError(
            "no report of updates in this state: it must be the state of clipwise.jax.attach with updates=,"
            f" got {type(opt_state).__name__}; of a clip behind an optimizer see clipwise.jax.report"
        )
    return unpack(found[-1].packed)


def packed_report(opt_state: Any) -> Packed:
    """Like `report`, but as a packed copy that is not read yet: for recording without a host-device sync."""
    return _last(opt_state).copy()


def _last(opt_state: Any) -> Packed:
    found = _found(opt_state, Packed)
    if not found:
        raise StateError(
            "no report in this state: it must be the state of an optimizer with clipwise.jax.transform or"
            f" clipwise.jax.attach, got {type(opt_state).__name__}"
        )
    return found[-1]  # type: ignore[no-any-return]


def _found(opt_state: Any, kind: type[Any]) -> list[Any]:
    """The reports of one kind, in the order of the state."""
    kinds = Packed | OfWeights | OfUpdates
    leaves = jax.tree.leaves(opt_state, is_leaf=lambda node: isinstance(node, kinds))
    return [leaf for leaf in leaves if isinstance(leaf, kind)]


def spread(found: ClipReport, slots: tuple[Slot, ...]) -> ClipReport:
    """The report in its fixed form: a norm for each parameter, 0 where there was no gradient.

    Fields of its parts that are numbers become arrays.
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
