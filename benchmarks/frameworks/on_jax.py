"""Ours as an optax transformation against optax' own, each compiled."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import optax

import clipwise
import clipwise.jax
from benchmarks.frameworks.rows import Contest
from benchmarks.frameworks.shapes import CASES, LEARNING, arrays, norm

__all__ = ["contests"]


def contests(cases: list[str]) -> Iterator[Contest]:
    """Global norm, not clipped and clipped, and AGC, for each model."""
    for name in cases:
        gradients, weights = arrays(name)
        size = norm(gradients)
        there = ([jnp.asarray(g) for g in gradients], [jnp.asarray(w) for w in weights])
        title = CASES[name].title
        # The gradients are the same each time, so a percentile of their norms clips nothing.
        learns = name in LEARNING and _step(clipwise.jax.transform(clipwise.autoclip(10)), *there)
        for clips, threshold in (("not clipped", 2 * size), ("clipped", size / 2)):
            yield Contest(
                "jax",
                title,
                f"global norm, {clips}",
                _step(optax.clip_by_global_norm(threshold), *there),
                _step(clipwise.jax.transform(clipwise.clip_by_global_norm(threshold)), *there),
                (learns or None) if threshold > size else None,
            )
        yield Contest(
            "jax",
            title,
            "AGC",
            _step(optax.adaptive_grad_clip(0.01), *there),
            _step(clipwise.jax.transform(clipwise.adaptive_grad_clip(0.01)), *there),
        )


def _step(transform: Any, gradients: list[Any], weights: list[Any]) -> Callable[[], object]:
    """One update after the other, as in a loop: the state goes from one to the next."""
    update = jax.jit(transform.update)
    state = transform.init(weights)

    def step() -> object:
        nonlocal state
        updates, state = update(gradients, state, weights)
        return jax.block_until_ready((updates, state))

    return step
