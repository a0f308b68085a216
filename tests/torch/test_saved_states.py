"""States that were saved when each back end had a step of its own go on where they were.

``saved_states.pt`` holds, for each clip, the state after six of the twelve steps below, and what the others
then gave: thresholds, and sums of the clipped gradients.
"""

from pathlib import Path

import numpy as np
import pytest
import torch

import clipwise
from clipwise import Clip, thresholds
from clipwise.errors import StateError

SAVED = torch.load(Path(__file__).with_name("saved_states.pt"), weights_only=True)

CLIPS = {
    "window": clipwise.autoclip(40, window=4),
    "units": Clip(thresholds.quantile_ema(0.9), per="unit"),
    "adagc": clipwise.adagc(warmup=3),
    "zclip": clipwise.zclip(),
    "chain": clipwise.chain(clipwise.clip_by_value(0.5), clipwise.adagc(warmup=2)),
    "by name": clipwise.by_name(
        {
            "a.*": clipwise.clip_by_norm(thresholds.quantile_ema(0.9)),
            "b": None,
            "*": clipwise.autoclip(30, window=4),
        }
    ),
    "loss": clipwise.clip_by_global_norm(thresholds.reduce_on_instability(1.0, 0.5, patience=1)),
    "entries by weight": Clip(thresholds.relative(0.1), per="element"),
    "cosine": clipwise.clip_by_global_norm(thresholds.cosine(1.0, 0.1, 20)),
}
SHAPES = {"a.w": (3, 4), "a.v": (4,), "b": (2,), "c": (2, 3)}


def go_on(clip, state):
    """Steps 6 to 11 of a run of float64 gradients, one of which is missing and one NaN now and then."""
    rng = np.random.default_rng(5)
    parameters = {name: torch.nn.Parameter(torch.tensor(rng.normal(size=s))) for name, s in SHAPES.items()}
    clipper = clipwise.torch.Clipper(parameters.items(), clip, nonfinite="skip")
    clipper.load_state_dict(state)
    found = []
    for step in range(12):
        given = {name: rng.normal(size=shape) * (1 + step % 3) for name, shape in SHAPES.items()}
        if step < 6:
            continue
        for name, p in parameters.items():
            p.grad = None if name == "c" and step % 4 == 2 else torch.tensor(given[name])
        clipper.observe(2.0 / (1 + step % 5))
        clipper.clip_()
        sums = [float(p.grad.sum()) for p in parameters.values() if p.grad is not None]
        found.append([float(clipper.report.threshold), *sums])
    return found


@pytest.mark.parametrize("name", CLIPS)
def test_it_goes_on_where_it_was(name):
    state, wanted = SAVED[name]
    # On another processor sums are added up in another order: a few roundings of float64.
    for here, there in zip(go_on(CLIPS[name], state), wanted, strict=True):
        assert here == pytest.approx(there, rel=1e-12, abs=1e-12)


def test_a_state_of_auto_that_another_rule_saved_is_refused():
    state, _ = SAVED["auto"]
    with pytest.raises(StateError, match="of a version with another rule cannot be continued"):
        go_on(clipwise.auto(), state)
