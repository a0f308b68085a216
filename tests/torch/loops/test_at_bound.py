"""The share of the weights at the bound, in the report of a clip of weights."""

import numpy as np
import pytest
import torch
from torch import nn

import clipwise
from clipwise import Clip, thresholds
from tests.torch.loops.reference_loops import backward, make_model

pytestmark = pytest.mark.device_path


def attached(values, weights, **settings):
    parameter = nn.Parameter(torch.tensor(values))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    clipper = clipwise.torch.attach(optimizer, weights=weights, **settings)

    def step(gradient=None):
        parameter.grad = torch.zeros_like(parameter) if gradient is None else torch.tensor(gradient)
        optimizer.step()
        return clipper.weights.report

    return step


@pytest.mark.parametrize("weights", [clipwise.clip_by_value(0.25), Clip((-0.25, 0.25), per="element")])
def test_those_that_stay_there_count(weights):
    step = attached([2.0, -0.25, 0.1, 0.0], weights)
    for clipped in (0.25, 0.0):
        report = step()
        assert float(report.clip_fraction) == clipped
        assert float(report.at_bound) == 0.5
        assert report.metrics()["clipwise/at_bound"] == 0.5
    assert float(step([0.0, -0.1, 0.0, 0.0]).at_bound) == 0.25


def test_units_tensors_and_everything():
    values = [[3.0, 4.0], [0.3, 0.4], [0.0, 1.0]]
    for _ in range(2):
        assert float(attached(values, Clip(1.0, per="unit"))().at_bound) == pytest.approx(2 / 3)
    assert float(attached(values, Clip(1.0, per="tensor"))().at_bound) == 1.0
    assert float(attached(values, Clip(1.0))().at_bound) == 1.0
    assert float(attached(values, Clip(9.0))().at_bound) == 0.0
    columns = attached([[3.0, 0.1], [4.0, 0.1]], Clip(1.0, per="unit"), unit_axes={"*": 1})
    assert float(columns().at_bound) == 0.5


def test_halves_stand_at_the_bound_of_their_own_dtype():
    for dtype in (torch.bfloat16, torch.float16):
        parameter = nn.Parameter(torch.tensor([3.0, 0.001, -3.0, 0.0], dtype=dtype))
        clipper = clipwise.torch.WeightClipper([parameter], clipwise.clip_by_value(0.01))
        clipper.clip_()
        assert float(clipper.report.at_bound) == 0.5


@pytest.mark.parametrize("weights", [clipwise.clip_by_value(0.1), Clip((-0.1, 0.2), per="element")])
def test_doubles_stand_at_the_bound_of_their_own_dtype(weights):
    """0.1 in float32 is larger than in float64."""
    parameter = nn.Parameter(torch.tensor([3.0, -3.0, 0.0, 0.05], dtype=torch.float64))
    clipper = clipwise.torch.WeightClipper([parameter], weights)
    clipper.clip_()
    assert float(clipper.report.at_bound) == 0.5


@pytest.mark.parametrize(
    "weights",
    [
        Clip(thresholds.mean(2.0), per="tensor"),
        Clip(thresholds.percentile(50, window=4), per="unit"),
        Clip(thresholds.relative(0.5), per="element"),
        clipwise.chain(clipwise.clip_by_value(9.0), Clip(thresholds.mean(2.0), per="tensor")),
        clipwise.by_name({"0": Clip(thresholds.mean(2.0), per="unit"), "*": None}),
    ],
)
def test_unknown_where_each_group_has_a_threshold_of_its_own(weights):
    """Weights of norms 1 and 10 under 2 and 20: the smallest threshold says nothing of the second."""
    pair = [nn.Parameter(torch.tensor([size, 0.0])) for size in (1.0, 10.0)]
    clipper = clipwise.torch.WeightClipper(pair, weights)
    clipper.clip_()
    assert clipper.report.at_bound.isnan()


def test_known_where_a_policy_gives_one_for_all():
    parameter = nn.Parameter(torch.tensor([[3.0, 4.0], [0.3, 0.4]]))
    policies = [thresholds.fixed(1.0), thresholds.linear(1.0, 0.5, 10)]
    for clip in [Clip(policy, per="unit") for policy in policies] + [Clip(thresholds.mean(0.5))]:
        clipper = clipwise.torch.WeightClipper([parameter.detach().clone()], clip)
        for _ in range(2):  # a mean of what was begins with the second
            clipper.clip_()
        assert float(clipper.report.at_bound) == (1.0 if clip.per == "global" else 0.5)


def test_parts_by_name_chains_and_schedules():
    model = nn.Linear(3, 1)
    with torch.no_grad():
        model.weight.fill_(2.0)
        model.bias.fill_(2.0)
    clip = clipwise.by_name({"weight": clipwise.clip_by_value(0.1), "*": None})
    clipper = clipwise.torch.WeightClipper(model, clip)
    clipper.clip_()
    # Of the two tensors one, as in clip_fraction, however many entries each has.
    assert float(clipper.report.clip_fraction) == float(clipper.report.at_bound) == 0.5
    both = clipwise.chain(clipwise.clip_by_value(1.0), Clip(0.5, per="tensor"))
    assert float(attached([3.0, 0.0, 0.0, 0.0], both)().at_bound) == 1.0
    falling = Clip(clipwise.thresholds.schedule(lambda step: 1.0 / (1 + step)), per="element")
    step = attached([0.5, 3.0, 0.0, 0.0], falling)
    assert [float(step().at_bound) for _ in range(2)] == [0.25, 0.5]


def test_in_training():
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    clipper = clipwise.torch.attach(optimizer, weights=clipwise.clip_by_value(0.1))
    assert clipper.weights.report is None
    for step in range(4):
        backward(model, step)
        optimizer.step()
        every = np.concatenate([p.detach().double().numpy().ravel() for p in model.parameters()])
        share = np.mean(np.abs(every) >= 0.1 * (1 - 1e-6))
        assert 0 < share < 1
        assert float(clipper.weights.report.at_bound) == pytest.approx(share)
    assert clipper.report.at_bound is None
