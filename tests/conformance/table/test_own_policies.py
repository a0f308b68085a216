"""Policies of the user's own, on every back end: five steps, of which one is left out, against numpy.

A back end has ``follow``: it is given clips by name, weights, gradients step by step and what else is told,
and returns for each clip the clipped gradients of each step; what it gives for the step that is left out is
not looked at. In each step the weights are the same. ``OWN`` names the clips, if it runs some of them.
"""

from functools import cache

import numpy as np

from . import own_policies
from .own_policies import CLIPS
from .test_table import BACK_ENDS, each

# float32: three roundings of numbers about 1; Keras' are differences of weights about 1.
TOLERANCE = 2e-6

CASES = [(back_end, name) for back_end in BACK_ENDS for name in getattr(back_end, "OWN", CLIPS)]


@cache
def followed(back_end):
    clips = {name: CLIPS[name] for name in getattr(back_end, "OWN", CLIPS)}
    return back_end.follow(clips, own_policies.weights(), own_policies.gradients())


@each("name", CASES)
def test_five_steps(back_end, name):
    wanted, found = own_policies.expected(CLIPS[name]), followed(back_end)[name]
    assert len(found) == len(wanted) == 5
    assert sum(step is None for step in wanted) == 1
    for number, (clipped, there) in enumerate(zip(found, wanted, strict=True)):
        for key, value in (there or {}).items():
            np.testing.assert_allclose(
                clipped[key], value, rtol=TOLERANCE, atol=TOLERANCE, err_msg=f"{key} in step {number}"
            )
