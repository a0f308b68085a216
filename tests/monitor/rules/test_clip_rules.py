"""ClipFreezesAdam and ClipActsOnNothing: of moments, and of what is really recorded."""

import math

import numpy as np
import pytest
import torch

import clipwise
from clipwise.monitor import Monitor, Store
from clipwise.monitor.rules import ClipActsOnNothing, ClipFreezesAdam, Moment, replay
from tests.monitor.rules.recordings import heard, of

EPS, ENTRIES = 1e-8, 400.0  # root 20


def frozen(norm, after, **adam):
    moments = of(norm=norm, norm_after=after)
    first = {"adam/eps": EPS, "adam/entries": ENTRIES} | adam
    return [Moment(0, "", first), *moments]


def test_it_names_eps_and_the_root_mean_square():
    [alert] = heard(ClipFreezesAdam(), frozen([2.0] * 30, [4e-7] * 30))
    assert (alert.step, alert.level) == (10, "warning")
    assert alert.seen == (
        "Clipping leaves gradients with a root mean square of 2e-08 at step 10, where Adam's eps is 1e-08;"
        " before clipping it was 0.1."
    )
    assert "of a global norm 2e-05 or more leaves 100 eps" in alert.advice


@pytest.mark.parametrize(
    ("norm", "after", "speaks"),
    [
        (2.0, 1.9e-6, True),  # 9.5 eps
        (2.0, 2.1e-6, False),
        (1.9e-6, 1e-6, False),  # as small before
        (1e-6, 1e-6, False),
        (2.0, math.nan, False),
        (2.0, 0.0, True),
    ],
)
def test_when(norm, after, speaks):
    assert bool(heard(ClipFreezesAdam(), frozen([norm] * 20, [after] * 20))) == speaks
    assert heard(ClipFreezesAdam(), of(norm=[norm] * 20, norm_after=[after] * 20)) == []


def train(path, optimizer, clip, steps=25, scale=1.0):
    weight = torch.nn.Parameter(torch.ones(10, 10))
    with Monitor(path, rules=[]) as monitor:
        made = optimizer([weight])
        monitor.attach(clipwise.torch.attach(made, clip), "own")
        for _ in range(steps):
            weight.grad = torch.full_like(weight, scale)
            made.step()
    with Store(path) as store:
        return replay([ClipFreezesAdam(), ClipActsOnNothing()], store, 1)


@pytest.mark.parametrize(
    ("optimizer", "names"),
    [
        (lambda p: torch.optim.AdamW(p, eps=1e-6), ["clip_freezes_adam"]),
        (lambda p: torch.optim.AdamW(p, eps=1e-15), []),
        (lambda p: torch.optim.RMSprop(p, eps=1e-6), ["clip_freezes_adam"]),
        (lambda p: torch.optim.SGD(p, lr=0.1), []),
    ],
)
def test_of_a_recorded_run(tmp_path, optimizer, names):
    alerts = train(tmp_path / "runs.db", optimizer, clipwise.clip_by_global_norm(2e-5))
    assert [alert.rule for alert in alerts] == names
    assert all(" of own leaves" in alert.seen and "2e-06" in alert.seen for alert in alerts)


def test_the_rms_is_that_of_its_own_norm(tmp_path):
    clip = clipwise.Clip(2e-6, norm="rms")
    alerts = train(tmp_path / "a.db", lambda p: torch.optim.AdamW(p, eps=1e-6), clip)
    assert "2e-06" in alerts[0].seen
    order = clipwise.clip_by_global_norm(2e-6, 1.0)
    assert train(tmp_path / "b.db", lambda p: torch.optim.AdamW(p, eps=1e-6), order) == []


def test_norms_of_zero_from_the_beginning(tmp_path):
    [alert] = train(tmp_path / "a.db", torch.optim.SGD, clipwise.clip_by_norm(1.0), scale=0.0)
    assert (alert.rule, alert.step) == ("clip_acts_on_nothing", 20)
    assert "was 0 in each of the first 20 recorded steps" in alert.seen
    assert heard(ClipActsOnNothing(), of(norm=[0.0] * 19 + [1.0] + [0.0] * 50)) == []
    assert heard(ClipActsOnNothing(), of(norm=[math.nan] + [0.0] * 50)) == []


def test_calls_that_found_no_gradient():
    def calls(made, acting):
        return Moment(10, "", {"clip_calls": made, "clip_calls_acting": acting})

    norms = of(norm=np.ones(30).tolist())
    [alert] = heard(ClipActsOnNothing(), [*norms[:10], calls(10.0, 0.0), *norms[10:]])
    assert alert.step == 10
    assert alert.seen.startswith(
        "The script called torch's clip functions 10 times up to step 10, and no call"
    )
    assert heard(ClipActsOnNothing(), [*norms[:10], calls(10.0, 2.0), *norms[10:]]) == []
    assert heard(ClipActsOnNothing(), [*norms[:10], calls(0.0, 0.0), *norms[10:]]) == []
