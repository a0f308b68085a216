"""Clipped policy ratios (PPO and its successors) on arrays of numpy, torch, JAX and TensorFlow.

::

    loss, figures = ppo_clip(logp, old_logp, advantages, low=0.2)
    value_loss, _ = value_clip(values, old_values, returns, epsilon=0.2)

Every loss is to be minimised, takes a mask, bounds the log-ratio before the exponential, and returns the
figures that are usually logged. The presets (`grpo`, `dapo`, `gspo`, ...) are settings of `ppo_clip`;
`cispo`, `sapo`, `gmpo`, `clip_cov` and `value_clip` have formulas of their own. If another engine samples the
actions, `rollout_weights`, `rejected` and `off_policy` weight or remove tokens.
"""

from clipwise.functional.ratios._aggregate import Aggregate, aggregate
from clipwise.functional.ratios._cispo import cispo
from clipwise.functional.ratios._clip_cov import clip_cov
from clipwise.functional.ratios._epsilon import Epsilon
from clipwise.functional.ratios._figures import RatioFigures, RatioLoss
from clipwise.functional.ratios._gmpo import gmpo
from clipwise.functional.ratios._ppo import ppo_clip
from clipwise.functional.ratios._presets import (
    dapo,
    dr_grpo,
    dual_clip,
    grpo,
    gspo,
    gspo_token,
    luspo,
    two_sided,
)
from clipwise.functional.ratios._rollout import (
    Criterion,
    RolloutWeights,
    off_policy,
    rejected,
    rollout_weights,
)
from clipwise.functional.ratios._sapo import sapo
from clipwise.functional.ratios._value import ValueFigures, ValueLoss, value_clip

__all__ = [
    "Aggregate",
    "Criterion",
    "Epsilon",
    "RatioFigures",
    "RatioLoss",
    "RolloutWeights",
    "ValueFigures",
    "ValueLoss",
    "aggregate",
    "cispo",
    "clip_cov",
    "dapo",
    "dr_grpo",
    "dual_clip",
    "gmpo",
    "grpo",
    "gspo",
    "gspo_token",
    "luspo",
    "off_policy",
    "ppo_clip",
    "rejected",
    "rollout_weights",
    "sapo",
    "two_sided",
    "value_clip",
]
