"""Steps that a clip leaves out, against a plain loop in float64 and against the loop without them."""

import math

import pytest
import torch

import clipwise
from clipwise import thresholds
from clipwise.errors import ArgumentError, ParameterError, StateError
from tests.thresholds import oracles

pytestmark = pytest.mark.device_path

Z, WINDOW, PATIENCE = 4.0, 8, 2
SPIKES = clipwise.skip_spikes(Z, WINDOW, patience=PATIENCE)
NORMS = [1.0, 2.0, 3.0, 2.0, 1.5, 90.0, 2.5, math.nan, 80.0, 70.0, 60.0, math.inf, 60.0, 2.0, 500.0, 1.0]
OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1),
    "fused adamw": lambda p: torch.optim.AdamW(p, lr=0.01, fused=True),
}


def gradient(norm: float) -> torch.Tensor:
    return torch.tensor([0.6, 0.8], dtype=torch.float64) * norm


def start(optimizer: str = "sgd"):
    weight = torch.nn.Parameter(torch.ones(2, dtype=torch.float64))
    return weight, OPTIMIZERS[optimizer]([weight])


def step(weight, optimizer, grad) -> None:
    weight.grad = grad
    optimizer.step()


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("chained", [False, True], ids=["alone", "chained"])
def test_a_skipped_step_does_not_happen(optimizer, chained):
    clip = clipwise.chain(SPIKES, clipwise.clip_by_global_norm(2.2)) if chained else SPIKES
    weight, ours = start(optimizer)
    clipper = clipwise.torch.attach(ours, clip)
    other, plain = start(optimizer)
    told = oracles.skip_spikes(NORMS, Z, WINDOW, PATIENCE)
    for norm, (threshold, left_out) in zip(NORMS, told, strict=True):
        step(weight, ours, gradient(norm))
        if not left_out:
            bound = min(threshold, 2.2) if chained else threshold
            step(other, plain, gradient(min(norm, bound)))
        torch.testing.assert_close(weight, other, rtol=1e-12, atol=1e-14)
        report = clipper.report
        assert bool(report.skipped) == left_out
        own = report.parts["0"] if chained else report
        assert float(own.threshold) == pytest.approx(threshold, rel=1e-12, nan_ok=True)
        if left_out:
            assert float(report.threshold) == pytest.approx(threshold, rel=1e-12, nan_ok=True)
            assert ("not finite" in str(report)) != ("above the threshold" in str(report))
    assert clipper.skipped_steps == sum(left_out for _, left_out in told) == 6


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_step_is_skipped_by_its_loss(optimizer):
    """Of any sign; beside a skip by the norm, and a step that both skip is one."""
    told = oracles.skip_losses(oracles.LOSSES, Z, WINDOW, PATIENCE)
    norms = [1.0] * len(told)
    norms[5], norms[13] = 50.0, 50.0  # of which the loss skips one
    clip = clipwise.chain(clipwise.skip_spikes(Z, WINDOW, patience=PATIENCE, on="loss"), SPIKES)
    weight, ours = start(optimizer)
    clipper = clipwise.torch.attach(ours, clip)
    other, plain = start(optimizer)
    for place, (norm, loss, by_loss) in enumerate(zip(norms, oracles.LOSSES, told, strict=True)):
        clipper.observe(loss)
        step(weight, ours, gradient(norm))
        left_out = by_loss or place == 13
        if not left_out:
            step(other, plain, gradient(norm))
        torch.testing.assert_close(weight, other, rtol=1e-12, atol=1e-14)
        report = clipper.report
        assert bool(report.skipped) == left_out
        assert math.isnan(float(report.parts["0"].threshold)) == left_out
    assert clipper.skipped_steps == sum(told) + 1 == 5
    state = clipper.state_dict()
    clipper.load_state_dict(state)
    with pytest.raises(ParameterError, match="observe"):
        step(weight, ours, gradient(1.0))


def test_a_fixed_bound_of_the_loss_and_what_it_cannot_be():
    weight, optimizer = start()
    clipper = clipwise.torch.attach(optimizer, "clip(5.0, action='skip', on='loss', patience=1)")
    found = []
    for loss in (1.0, 6.0, 6.0, 5.0, 6.0):
        clipper.observe(loss)
        step(weight, optimizer, gradient(100.0))
        found.append(bool(clipper.report.skipped))
        assert torch.equal(weight.grad, gradient(100.0))  # nothing is clipped
    assert found == [False, True, False, False, True]
    for make, words in (
        (lambda: clipwise.Clip(1.0, on="loss"), 'on=.loss. is for action="skip"'),
        (lambda: clipwise.Clip(1.0, action="skip", on="step"), "on must be one of norm, loss"),
        (
            lambda: clipwise.Clip(thresholds.percentile(), action="skip", on="loss"),
            "takes a number, a schedule",
        ),
    ):
        with pytest.raises(ArgumentError, match=words):
            make()


def test_nothing_learns_from_a_skipped_step():
    """By a fixed threshold, and with a clip behind it that remembers."""
    states = []
    for norms in ([1.0, 2.0, 50.0, 60.0, 3.0], [1.0, 2.0, 3.0]):
        weight, optimizer = start()
        clip = clipwise.chain(clipwise.Clip(10.0, action="skip"), clipwise.autoclip(50))
        clipper = clipwise.torch.attach(optimizer, clip)
        for norm in norms:
            step(weight, optimizer, gradient(norm))
        saved = clipper.state_dict()["thresholds"]
        states.append((weight.detach(), [one["state"] for one in saved]))
    torch.testing.assert_close(states[0], states[1])


def test_it_skips_by_a_threshold_that_knows_the_norm():
    weight, optimizer = start()
    clip = clipwise.Clip(clipwise.thresholds.percentile(50), action="skip", patience=1)
    clipper = clipwise.torch.attach(optimizer, clip)
    found = []
    for norm in (2.0, 4.0, 1.0, 8.0, 9.0, 9.0):
        step(weight, optimizer, gradient(norm))
        found.append((bool(clipper.report.skipped), float(clipper.report.threshold)))
    # History: 2; 2 and 4, left out; 2, 1; and 8, left out; then 9 enters, and 9.
    assert found == [(False, 2.0), (True, 3.0), (False, 1.5), (True, 2.0), (False, 2.0), (False, 5.5)]


def test_a_checkpoint_goes_on_with_the_row():
    weight, optimizer = start()
    clipper = clipwise.torch.attach(optimizer, SPIKES)
    for norm in NORMS[:6]:
        step(weight, optimizer, gradient(norm))
    saved = clipper.state_dict()
    clipper.detach()
    again = clipwise.torch.attach(optimizer, SPIKES)
    again.load_state_dict(saved)
    skipped = []
    for _ in range(3):
        step(weight, optimizer, gradient(90.0))
        skipped.append(bool(again.report.skipped))
    assert skipped == [True, False, False]  # one was left out before
    other = clipwise.torch.Clipper([weight], clipwise.Clip(SPIKES.threshold))
    with pytest.raises(StateError, match="row"):
        again.load_state_dict(other.state_dict())


def test_two_optimizers_leave_it_out_together():
    weights = [torch.nn.Parameter(torch.ones(1)) for _ in range(2)]
    optimizers = [torch.optim.SGD([w], lr=0.1) for w in weights]
    clipwise.torch.attach(optimizers, clipwise.Clip(10.0, action="skip"), nonfinite="propagate")
    for w, grad in zip(weights, (1.0, 50.0), strict=True):
        w.grad = torch.tensor([grad])
    for optimizer in optimizers:
        optimizer.step()
    assert [w.item() for w in weights] == [1.0, 1.0]


def test_what_is_refused():
    weight, optimizer = start()
    with pytest.raises(StateError, match="action='skip'"):
        clipwise.torch.clip_([weight], clipwise.Clip(1.0, action="skip"))
    for make in (
        lambda: clipwise.torch.attach(optimizer, weights=SPIKES),
        lambda: clipwise.torch.WeightClipper([weight], SPIKES),
    ):
        with pytest.raises(ArgumentError, match='action="skip" is for gradients'):
            make()
