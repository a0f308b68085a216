"""Clipped policy ratios: PPO and what came after, on numpy, torch, JAX and TensorFlow arrays alike.

::

    loss, figures = ppo_clip(logp, old_logp, advantages, low=0.2)
    value_loss, _ = value_clip(values, old_values, returns, epsilon=0.2)

Every loss is to be minimised, takes a mask, bounds the log-ratio before the exponential, and comes with the
figures that people log. `ppo_clip` does all but `cispo` and `value_clip`; the others name its settings.
"""

from clipwise.functional.ratios._aggregate import Aggregate, aggregate
from clipwise.functional.ratios._cispo import cispo
from clipwise.functional.ratios._epsilon import Epsilon
from clipwise.functional.ratios._figures import RatioFigures, RatioLoss
from clipwise.functional.ratios._ppo import ppo_clip
from clipwise.functional.ratios._presets import dapo, dr_grpo, dual_clip, grpo, gspo, two_sided
from clipwise.functional.ratios._value import ValueFigures, ValueLoss, value_clip

__all__ = [
    "Aggregate",
    "Epsilon",
    "RatioFigures",
    "RatioLoss",
    "ValueFigures",
    "ValueLoss",
    "aggregate",
    "cispo",
    "dapo",
    "dr_grpo",
    "dual_clip",
    "grpo",
    "gspo",
    "ppo_clip",
    "two_sided",
    "value_clip",
]
