"""`updates=`: what a step did is bounded, against the formulas in float64."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import clipwise
from clipwise import Clip, thresholds
from clipwise.errors import ArgumentError, NonFiniteError, StateError

pytestmark = pytest.mark.device_path

RATES = (0.1, 0.02)
SHAPES = ((3, 4), (5,))
STEPS = 8


def gradients(step: int, dtype=torch.float64) -> list[torch.Tensor]:
    """A spike at the fourth step, of the first tensor."""
    generator = torch.Generator().manual_seed(step)
    found = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in SHAPES]
    found[0] *= 1e3 if step == 4 else 1.0
    return [one.to(dtype) for one in found]


def start(kind=torch.optim.AdamW, dtype=torch.float64, **options):
    generator = torch.Generator().manual_seed(99)
    made = [nn.Parameter(torch.randn(s, generator=generator, dtype=torch.float64).to(dtype)) for s in SHAPES]
    groups = [{"params": [p], "lr": rate} for p, rate in zip(made, RATES, strict=True)]
    return made, kind(groups, **options)


def step(parameters, optimizer, number: int) -> None:
    for p, gradient in zip(parameters, gradients(number, parameters[0].dtype), strict=True):
        p.grad = gradient
    optimizer.step()


def numbers(parameters) -> list[np.ndarray]:
    return [p.detach().double().numpy().copy() for p in parameters]


def rms(x: np.ndarray) -> float:
    return float(np.sqrt(np.mean(x**2)))


FORMULAS = {
    "adafactor": (clipwise.clip_by_block_rms(0.7), lambda u, w: [x / max(1.0, rms(x) / 0.7) for x in u]),
    "global": (
        clipwise.clip_by_global_norm(2.0),
        lambda u, w: [x * min(1.0, 2.0 / math.sqrt(sum((y**2).sum() for y in u))) for x in u],
    ),
    "by weight": (
        clipwise.clip_by_norm(thresholds.relative(0.5)),
        lambda u, w: [
            x * min(1.0, 0.5 * np.linalg.norm(y) / np.linalg.norm(x)) for x, y in zip(u, w, strict=True)
        ],
    ),
    "value": (clipwise.clip_by_value(0.4), lambda u, w: [np.clip(x, -0.4, 0.4) for x in u]),
}


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize(
    "options",
    [{}, {"fused": True}, {"kind": torch.optim.SGD, "momentum": 0.9}],
    ids=["adamw", "fused", "sgd"],
)
def test_the_difference_without_the_learning_rate_is_clipped(name, options):
    clip, formula = FORMULAS[name]
    ours, optimizer = start(**options)
    theirs, plain = start(**options)
    clipper = clipwise.torch.attach(optimizer, updates=clip)
    clipped = 0
    for number in range(STEPS):
        before = numbers(theirs)
        step(theirs, plain, number)
        updates = [(x - y) / r for x, y, r in zip(numbers(theirs), before, RATES, strict=True)]
        wanted = formula(updates, before)
        with torch.no_grad():
            for p, old, u, rate in zip(theirs, before, wanted, RATES, strict=True):
                p.copy_(torch.from_numpy(old + rate * u))
        step(ours, optimizer, number)
        for p, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(p, other, rtol=1e-11, atol=1e-13)
        changed = [not np.allclose(x, y, rtol=1e-9) for x, y in zip(updates, wanted, strict=True)]
        assert bool(clipper.updates.report.clipped) == any(changed)
        clipped += any(changed)
    assert clipper.updates.clipped_steps == clipped > 0
    assert clipper.updates.steps == STEPS
    assert clipper.clipped_steps == 0  # the gradients are only measured


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_what_is_not_clipped_keeps_its_bits(dtype):
    """Beside a tensor that is clipped, too."""
    ours, optimizer = start(dtype=dtype)
    theirs, plain = start(dtype=dtype)
    clip = clipwise.by_name(
        {"group0*": clipwise.clip_by_block_rms(0.01), "*": clipwise.clip_by_block_rms(1e9)}
    )
    clipper = clipwise.torch.attach(optimizer, updates=clip)
    for number in range(STEPS):
        before = numbers(ours)[0]
        step(ours, optimizer, number)
        step(theirs, plain, number)
        assert torch.equal(ours[1], theirs[1])
        moved = rms(numbers(ours)[0] - before) / RATES[0]
        assert moved < 0.01 * (1 + 1e-3) or dtype == torch.bfloat16  # to its own rounding
        assert float(clipper.updates.report.parts["group0*"].norm_after) == pytest.approx(0.01)


def stable_adamw(betas=(0.9, 0.999), eps=1e-8, decay=0.01):
    """Algorithm 2 of arXiv:2304.13013, with its betas that correct the bias."""
    weights = numbers(start()[0])
    m, v = ([np.zeros_like(w) for w in weights] for _ in range(2))
    for number in range(STEPS):
        t = number + 1
        b1, b2 = (beta * (1 - beta ** (t - 1)) / (1 - beta**t) for beta in betas)
        for i, g in enumerate(one.numpy() for one in gradients(number)):
            m[i] = b1 * m[i] + (1 - b1) * g
            v[i] = b2 * v[i] + (1 - b2) * g**2
            rate = RATES[i] / max(1.0, rms(g / np.sqrt(np.maximum(v[i], eps**2))))
            weights[i] = weights[i] - rate * decay * weights[i] - rate * m[i] / (np.sqrt(v[i]) + eps)
        yield weights


@pytest.mark.parametrize("fused", [False, True])
def test_stable_adamw_is_its_algorithm(fused):
    ours, optimizer = start(fused=fused)
    clipper = clipwise.torch.attach(optimizer, updates="stable_adamw()")
    for number, wanted in enumerate(stable_adamw()):
        step(ours, optimizer, number)
        for found, expected in zip(numbers(ours), wanted, strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)
    assert 0 < clipper.updates.clipped_steps < STEPS


@pytest.mark.parametrize("nonfinite", ["skip", "zero", "error", "propagate"])
def test_an_update_that_is_not_finite(nonfinite):
    """Adam's state may overflow where no gradient does: the parameters go back, or are named."""
    ours, optimizer = start(torch.optim.SGD)
    clipper = clipwise.torch.attach(optimizer, updates=clipwise.clip_by_block_rms(1.0), nonfinite=nonfinite)
    before = numbers(ours)
    bad = gradients(0)
    ours[0].grad, ours[1].grad = bad[0].mul(0.0), bad[1].clone()
    optimizer.param_groups[1]["lr"] = 1e308
    ours[1].grad[2] = 1e300
    if nonfinite == "error":
        with pytest.raises(NonFiniteError, match=r"group1\.0"):
            optimizer.step()
    else:
        optimizer.step()
        assert bool(clipper.updates.report.skipped) == (nonfinite == "skip")
        assert int(clipper.updates.report.nonfinite) == 1
    found = numbers(ours)
    assert np.array_equal(found[0], before[0])
    assert np.array_equal(found[1], before[1]) == (nonfinite in ("skip", "error"))
    assert np.isfinite(found[1]).all() == (nonfinite != "propagate")


def test_a_step_that_does_not_happen_is_no_update():
    ours, optimizer = start()
    clipper = clipwise.torch.attach(optimizer, updates=clipwise.clip_by_block_rms(0.1))
    step(ours, optimizer, 0)
    before = numbers(ours)
    ours[0].grad[0] = math.nan
    optimizer.step()
    assert (clipper.skipped_steps, clipper.updates.steps, clipper.updates._kept) == (1, 1, {})
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    scaler.scale(torch.zeros(()))
    ours[0].grad[0] = math.inf
    scaler.step(optimizer)
    assert clipper.updates.steps == 1
    assert all(map(np.array_equal, numbers(ours), before))
    clipper.detach()
    step(ours, optimizer, 1)
    assert clipper.updates.steps == 1


def test_optimizers_that_step_in_turn_and_a_rate_of_zero():
    ours, _ = start()
    pair = [torch.optim.SGD([p], lr) for p, lr in zip(ours, (0.5, 0.0), strict=True)]
    clipper = clipwise.torch.attach(pair, updates=clipwise.clip_by_block_rms(0.1))
    before = numbers(ours)
    for p, gradient in zip(ours, gradients(0), strict=True):
        p.grad = gradient
    for one in pair:
        one.step()
    assert rms(numbers(ours)[0] - before[0]) == pytest.approx(0.05)
    assert np.array_equal(numbers(ours)[1], before[1])
    assert (clipper.updates.steps, clipper.updates.clipped_steps) == (1, 1)
    assert float(clipper.updates.report.norm) == 0.0  # of the second


def test_its_history_is_in_the_checkpoint():
    def run(steps, saved=None):
        parameters, optimizer = start()
        clipper = clipwise.torch.attach(
            optimizer, "clip_by_norm(1.0)", updates=clipwise.norm_growth_limit(1.05)
        )
        if saved is not None:
            for p, value in zip(parameters, saved[0], strict=True):
                p.data.copy_(value)
            optimizer.load_state_dict(saved[1])
            clipper.load_state_dict(saved[2])
        for number in steps:
            step(parameters, optimizer, number)
        return [p.detach().clone() for p in parameters], optimizer.state_dict(), clipper.state_dict()

    whole, first = run(range(6)), run(range(3))
    assert all(map(torch.equal, whole[0], run(range(3, 6), first)[0]))
    _, other = start()
    with pytest.raises(StateError, match="the state has a clip of updates, unlike this clipper"):
        clipwise.torch.attach(other, "clip_by_norm(1.0)").load_state_dict(first[2])


class AdamWScheduleFree(torch.optim.SGD):
    pass


@pytest.mark.parametrize(
    ("make", "updates", "words"),
    [
        (torch.optim.LBFGS, "clip_by_block_rms(1)", "LBFGS: it takes its curvature"),
        (AdamWScheduleFree, "clip_by_block_rms(1)", "averages"),
        (lambda p: torch.optim.Optimizer(p, {"lr": None}), "clip_by_block_rms(1)", "lr is None"),
        (torch.optim.SGD, "stable_adamw()", "which SGD has not"),
        (torch.optim.SGD, "skip_spikes()", "updates are clipped after a step"),
        (
            torch.optim.SGD,
            "clip_by_norm(reduce_on_instability())",
            "a clip of updates cannot follow the loss",
        ),
    ],
)
def test_what_cannot_be_right_is_refused(make, updates, words):
    with pytest.raises(ArgumentError, match=words):
        clipwise.torch.attach(make(start()[0]), updates=updates)


def test_what_needs_the_optimizer_or_all_of_several_is_refused():
    ours, optimizer = start()
    pair = [torch.optim.SGD([p], 0.1) for p in ours]
    with pytest.raises(ArgumentError, match="step one after the other"):
        clipwise.torch.attach(pair, updates=clipwise.clip_by_global_norm(1.0))
    for refused in (
        lambda: clipwise.torch.attach(optimizer, clipwise.stable_adamw()),
        lambda: clipwise.torch.attach(optimizer, weights=clipwise.stable_adamw()),
        lambda: clipwise.torch.clip_(ours, "stable_adamw()"),
    ):
        with pytest.raises(ArgumentError, match="looks at the second moment of Adam"):
            refused()
    with pytest.raises(ArgumentError, match='per must be "tensor"'):
        Clip(thresholds.moment_ratio(), per="unit")
