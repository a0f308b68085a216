"""Ours against ``global_clipnorm`` in ``fit``, with the back end of this process."""

from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np

import clipwise
import clipwise.keras
from benchmarks.frameworks.rows import Contest

__all__ = ["contests"]

STEPS, BATCH, FEATURES = 50, 32, 64
MODELS = {"4 layers of 256": (256, 4), "4 layers of 1024": (1024, 4)}
THRESHOLD = 0.5


def contests() -> Iterator[Contest]:
    """An epoch of ``fit`` for two dense models."""
    for title, (width, layers) in MODELS.items():
        plain = clipwise.clip_by_global_norm(THRESHOLD)
        yield Contest(
            f"keras on {keras.backend.backend()}",
            title,
            "fit, global norm",
            _epoch(keras.optimizers.SGD(1e-3, global_clipnorm=THRESHOLD), width, layers),
            _epoch(clipwise.keras.attach(keras.optimizers.SGD(1e-3), plain), width, layers),
            _epoch(clipwise.keras.attach(keras.optimizers.SGD(1e-3), clipwise.autoclip(10)), width, layers),
            steps=STEPS,
        )


def _epoch(optimizer: Any, width: int, layers: int) -> Callable[[], object]:
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(STEPS * BATCH, FEATURES)).astype("float32")
    y = rng.normal(size=(STEPS * BATCH, 1)).astype("float32")
    dense = [keras.layers.Dense(width, activation="relu") for _ in range(layers)]
    model = keras.Sequential([keras.layers.Input((FEATURES,)), *dense, keras.layers.Dense(1)])
    model.compile(optimizer, "mse")
    return lambda: model.fit(x, y, batch_size=BATCH, epochs=1, shuffle=False, verbose=0)
