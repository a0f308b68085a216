"""The same 200 steps of SGD in every framework: the thresholds and the weights agree step by step."""

import importlib
import math
from functools import cache

import numpy as np
import pytest

from tests.conformance import back_ends

from . import on_torch
from .problem import CLIPS, FOLLOWS_LOSS, STEPS

# The order of sums differs, and what is rounded differently grows over 200 steps. float32 holds 6e-8.
TOLERANCE = {"float64": 1e-9, "float32": 1e-4}

TRAINERS = {
    "jax-jit": ("on_jax", "train"),
    "optax": ("on_jax", "train_through_optax"),
    "tensorflow-function": ("on_tensorflow", "train"),
}

keras = back_ends.own_process()
CHOSEN = [keras] if keras else [name for name in TRAINERS if name in back_ends.chosen()]


def trainer(back_end: str):
    module, name = TRAINERS.get(back_end, ("on_keras", "train"))
    return getattr(importlib.import_module(f"tests.conformance.trajectory.{module}"), name)


@cache
def reference(name: str, dtype: str, follows_loss: bool = False):
    return list(on_torch.train(FOLLOWS_LOSS if follows_loss else CLIPS[name], dtype, follows_loss))


def compare(found, expected, dtype: str) -> None:
    tolerance = TOLERANCE[dtype]
    for step, ((threshold, weights), (its_threshold, its_weights)) in enumerate(
        zip(found, expected, strict=True)
    ):
        assert threshold == pytest.approx(its_threshold, rel=tolerance), f"threshold of step {step}"
        for name, value in weights.items():
            np.testing.assert_allclose(
                value, its_weights[name], rtol=tolerance, atol=tolerance, err_msg=f"{name} after step {step}"
            )


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", CLIPS)
@pytest.mark.parametrize("back_end", CHOSEN)
def test_the_same_trajectory(back_end, name, dtype):
    expected = reference(name, dtype)
    assert len(expected) == STEPS
    compare(trainer(back_end)(CLIPS[name], dtype), expected, dtype)


@pytest.mark.parametrize("back_end", [name for name in CHOSEN if name in TRAINERS])
def test_a_threshold_that_follows_the_loss(back_end):
    expected = reference("", "float64", follows_loss=True)
    assert expected[-1][0] < 1.0  # it came down
    compare(trainer(back_end)(FOLLOWS_LOSS, "float64", True), expected, "float64")


@pytest.mark.parametrize("name", CLIPS)
def test_the_problem_is_worth_it(name):
    """Weights move, nothing explodes, and each clip clips: its run is not that without clipping."""
    steps = reference(name, "float64")
    assert all(np.isfinite(value).all() for value in steps[-1][1].values())
    free = unclipped()
    moved = max(np.abs(steps[-1][1][k] - free[k]).max() for k in free if np.isfinite(free[k]).all())
    assert moved > 1e-3


@cache
def unclipped():
    from clipwise import clip_by_global_norm

    return list(on_torch.train(clip_by_global_norm(math.inf), "float64"))[-1][1]
