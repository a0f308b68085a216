"""A step that does not happen: no update, and the state of the optimizer as it was."""

from typing import Any

import jax
import jax.numpy as jnp

from clipwise.namespace import Array


def unless(skipped: Array, updates: Any, before: Any, after: Any) -> tuple[Any, Any]:
    """What an optimizer gave, or zeros and the state before where the step is skipped.

    Chosen entry by entry, not by a branch: this stays one pass with what the optimizer does.

    Args:
        skipped: whether it is, 0-d.
        updates: what the optimizer gave.
        before, after: its state.
    """
    updates = jax.tree.map(lambda one: jnp.where(skipped, jnp.zeros_like(one), one), updates)
    return updates, jax.tree.map(lambda old, new: _kept(skipped, old, new), before, after)


def _kept(skipped: Array, old: Any, new: Any) -> Any:
    """``old`` where the step was skipped, in the dtype of ``new``; what is no array is as it is now."""
    if old is new or not isinstance(new, jax.Array):
        return new
    same = getattr(old, "dtype", None) == new.dtype
    return jnp.where(skipped, old if same else jnp.asarray(old, new.dtype), new)
