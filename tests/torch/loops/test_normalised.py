"""Parameters whose optimizer normalises the gradient itself stay out of norm and clip, but not of NaN."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import clipwise
from clipwise.errors import ParameterError

pytestmark = pytest.mark.device_path


def gradients(scale=1.0):
    generator = torch.Generator().manual_seed(1)
    matrix, vector = (torch.randn(s, generator=generator, dtype=torch.float64) for s in ((4, 3), (5,)))
    return [matrix * 1e3, vector * scale]


def start():
    matrix, vector = (nn.Parameter(torch.ones(s, dtype=torch.float64)) for s in ((4, 3), (5,)))
    return matrix, vector


class MuonWithAuxAdam(torch.optim.AdamW):
    """As the combined optimizers are: by group."""


class SignSGD(torch.optim.SGD):
    pass


def by_group(matrix, vector):
    groups = [{"params": [matrix], "use_muon": True}, {"params": [vector], "use_muon": False}]
    return [MuonWithAuxAdam(groups, lr=0.1)]


SETUPS = {
    "two": lambda m, v: [torch.optim.Muon([m], lr=0.1), torch.optim.AdamW([v], lr=0.1)],
    "by group": by_group,
    "rprop": lambda m, v: [torch.optim.Rprop([m]), torch.optim.SGD([v], lr=0.1)],
    "signs": lambda m, v: [SignSGD([m], lr=0.1), torch.optim.SGD([v], lr=0.1)],
}
CLIPS = {
    "global": clipwise.clip_by_global_norm(1.0),
    "tensor": clipwise.clip_by_norm(1.0),
    "memory": clipwise.Clip(clipwise.thresholds.mean(0.0), per="tensor"),
    "chain": clipwise.chain(clipwise.skip_spikes(), clipwise.clip_by_global_norm(1.0)),
}


def set_gradients(parameters, scale=1.0):
    for p, gradient in zip(parameters, gradients(scale), strict=True):
        p.grad = gradient


def step(optimizers) -> None:
    for one in optimizers:
        one.step()


@pytest.mark.parametrize("setup", SETUPS)
@pytest.mark.parametrize("clip", CLIPS)
def test_they_are_left_as_they_are(setup, clip):
    matrix, vector = parameters = start()
    optimizers = SETUPS[setup](matrix, vector)
    clipper = clipwise.torch.attach(optimizers, CLIPS[clip])
    for scale in (1.0, 3.0):
        set_gradients(parameters, scale)
        step(optimizers)
        own = gradients(scale)
        assert torch.equal(matrix.grad, own[0])
        after = 0.0 if clip == "memory" and scale == 3.0 else 1.0
        if clip != "memory" or scale == 3.0:
            np.testing.assert_allclose(vector.grad, own[1] / own[1].norm() * after, rtol=1e-12)
        report = clipper.report
        assert float(report.norm) == pytest.approx(float(own[1].norm()), rel=1e-12)
        assert report.normalised == 1
        assert list(report.norms().values()) == pytest.approx([float(g.norm()) for g in own])
    assert "1 normalised tensors left out" in str(clipper.report)
    assert matrix.isfinite().all()


def test_they_are_taken_in_where_that_is_asked_for():
    parameters = start()
    optimizers = SETUPS["two"](*parameters)
    clipper = clipwise.torch.attach(optimizers, CLIPS["global"], include_normalised=True)
    set_gradients(parameters)
    step(optimizers)
    whole = math.sqrt(sum(float(g.norm()) ** 2 for g in gradients()))
    assert float(clipper.report.norm) == pytest.approx(whole)
    np.testing.assert_allclose(parameters[0].grad, gradients()[0] / whole)
    assert (clipper.report.normalised, "left out" in str(clipper.report)) == (0, False)


@pytest.mark.parametrize("nonfinite", ["skip", "zero"])
def test_nan_in_them_is_still_seen(nonfinite):
    parameters = start()
    optimizers = SETUPS["two"](*parameters)
    clipper = clipwise.torch.attach(optimizers, CLIPS["global"], nonfinite=nonfinite)
    set_gradients(parameters)
    parameters[0].grad[0, 0] = math.nan
    step(optimizers)
    assert int(clipper.report.nonfinite) == 1
    assert bool(clipper.report.skipped) == (nonfinite == "skip")
    assert clipper.report.worst == "group0.0" or nonfinite == "zero"
    assert all(p.isfinite().all() for p in parameters)
    assert torch.equal(parameters[1].detach(), torch.ones(5).double()) == (nonfinite == "skip")


def test_where_all_are_it_is_said_and_parameters_may_come():
    matrix, vector = parameters = start()
    optimizer = torch.optim.Muon([matrix], lr=0.1)
    with pytest.warns(UserWarning, match="clips nothing: Muon normalises the gradients of all 1 param"):
        clipper = clipwise.torch.attach(optimizer, "clip_by_global_norm(1.0)")
    set_gradients(parameters)
    optimizer.step()
    assert (float(clipper.report.norm), bool(clipper.report.clipped)) == (0.0, False)
    assert torch.equal(matrix.grad, gradients()[0])
    clipper.detach()
    optimizer = by_group(matrix, vector)[0]
    clipper = clipwise.torch.attach(optimizer, clipwise.adagc(warmup=1))
    other = nn.Parameter(torch.ones(2, dtype=torch.float64))
    optimizer.add_param_group({"params": [other], "use_muon": False})
    other.grad = torch.ones(2, dtype=torch.float64)
    optimizer.step()
    assert clipper.report.normalised == 1
    assert float(clipper.report.norm) == pytest.approx(math.hypot(gradients()[1].norm(), math.sqrt(2)))


def test_patterns_may_match_them_alone_and_must_match_something():
    parameters = start()
    optimizer = by_group(*parameters)[0]
    parts = {"group0.0": CLIPS["global"], "*": clipwise.clip_by_norm(0.5)}
    nested = clipwise.chain(clipwise.clip_by_value(9e9), clipwise.by_name(parts))
    with clipwise.torch.attach(optimizer, nested):
        set_gradients(parameters)
        optimizer.step()
    assert torch.equal(parameters[0].grad, gradients()[0])
    assert float(parameters[1].grad.norm()) == pytest.approx(0.5)
    with pytest.raises(ParameterError, match="nowhere"):
        clipwise.torch.attach(optimizer, clipwise.by_name({"nowhere": CLIPS["global"]}))
