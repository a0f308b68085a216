"""Gradient clipping for PyTorch, JAX, Keras and TensorFlow.

::

    import clipwise

    clip = clipwise.clip_by_global_norm(1.0)              # or autoclip(10), zclip(), auto(), ...
    clipper = clipwise.torch.attach(optimizer, clip)      # before every step from now on

Importing clipwise imports no framework. A back end (`clipwise.torch`, ...) is loaded on first use.
"""

import importlib
from typing import TYPE_CHECKING, Any

from clipwise.clip import (
    AnyClip,
    ByName,
    Chain,
    Clip,
    adagc,
    adaptive_grad_clip,
    auto,
    autoclip,
    by_name,
    chain,
    clip_by_block_rms,
    clip_by_global_norm,
    clip_by_norm,
    clip_by_value,
    norm_growth_limit,
    skip_spikes,
    stable_adamw,
    zclip,
)
from clipwise.extras import needed
from clipwise.report import ClipReport

if TYPE_CHECKING:
    from clipwise import config, data, jax, keras, monitor, tensorflow, torch
    from clipwise.monitor import Monitor
    from clipwise.monitor.suggest import suggest

__version__ = "0.1.0"

__all__ = [
    "AnyClip",
    "ByName",
    "Chain",
    "Clip",
    "ClipReport",
    "Monitor",
    "adagc",
    "adaptive_grad_clip",
    "auto",
    "autoclip",
    "by_name",
    "chain",
    "clip_by_block_rms",
    "clip_by_global_norm",
    "clip_by_norm",
    "clip_by_value",
    "config",
    "data",
    "errors",
    "jax",
    "keras",
    "monitor",
    "norm_growth_limit",
    "skip_spikes",
    "stable_adamw",
    "suggest",
    "tensorflow",
    "thresholds",
    "torch",
    "zclip",
]

_LAZY = {  # submodule -> what its extra of the same name installs
    "config": (),
    "data": ("sklearn", "narwhals", "datasketches"),
    "jax": ("jax", "optax"),
    "keras": ("keras",),
    "monitor": (),
    "tensorflow": ("tensorflow",),
    "torch": ("torch",),
}

_ELSEWHERE = {"Monitor": "clipwise.monitor", "suggest": "clipwise.monitor.suggest"}


def __getattr__(name: str) -> Any:
    if name in _ELSEWHERE:
        return getattr(importlib.import_module(_ELSEWHERE[name]), name)
    if name not in _LAZY:
        raise AttributeError(f"module 'clipwise' has no attribute {name!r}")
    with needed(f"clipwise.{name}", name, _LAZY[name]):
        return importlib.import_module(f"clipwise.{name}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
