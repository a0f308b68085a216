"""A clip of weights: recorded beside that of the gradients, and not taken for one by the rules."""

import numpy as np
import pytest
import torch

import clipwise
from clipwise.errors import ArgumentError
from clipwise.monitor import Monitor, Store
from clipwise.monitor.rules import default_rules, replay

BOUND = 0.01


@pytest.fixture
def path(tmp_path):
    return tmp_path / "runs.db"


def train(monitor, name, steps, rate=0.05):
    """A critic whose weights are clipped at every step, as WGAN's; the shares at the bound after each."""
    torch.manual_seed(0)
    critic = torch.nn.Linear(4, 3)
    optimizer = torch.optim.SGD(critic.parameters(), lr=rate)
    clipper = clipwise.torch.attach(optimizer, model=critic, weights=clipwise.clip_by_value(BOUND))
    monitor.attach(clipper, name)
    shares = []
    for _ in range(steps):
        optimizer.zero_grad()
        critic(torch.randn(8, 4)).square().mean().backward()
        optimizer.step()
        flat = np.concatenate([p.detach().numpy().ravel() for p in critic.parameters()])
        shares.append(float(np.mean(np.abs(flat) >= np.float32(BOUND))))
    return shares


@pytest.mark.parametrize(("name", "source"), [("", "weights"), ("critic", "critic/weights")])
def test_it_is_followed_and_the_share_at_the_bound_is_that_of_its_step(path, name, source):
    with Monitor(path, layers_every=3) as monitor:
        shares = train(monitor, name, 7)
    with Store(path) as store:
        found = store.series(1, [f"clipwise/{one}" for one in ("norm", "at_bound")], source)
        layers = store.layers(1, name)
        assert store.parameters(1, source) == []
        assert store.clippers(1, weights=False) == [name]
    assert found["clipwise/norm"].steps.tolist() == list(range(1, 8))
    share = found["clipwise/at_bound"]
    assert share.steps.tolist() == [1, 3, 6]
    np.testing.assert_allclose(share.values, [shares[step - 1] for step in share.steps], rtol=1e-6)
    assert layers.names == ("weight", "bias")


def test_what_is_done_to_updates_has_names_of_its_own(path):
    weight = torch.nn.Parameter(torch.ones(4))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    clip = clipwise.clip_by_block_rms(2.0)
    with Monitor(path) as monitor:
        clipper = monitor.attach(clipwise.torch.attach(optimizer, "clip_by_norm(9.0)", updates=clip), "own")
        for norm in (2.0, 6.0, 40.0):
            weight.grad = torch.full((4,), norm / 2)
            optimizer.step()
    assert clipper.updates.steps == 3
    with Store(path) as store:
        names = ["clipwise/norm", *(f"update/{one}" for one in ("norm", "norm_after", "clip_fraction"))]
        found = [store.series(1, [name], "own")[name].values.tolist() for name in names]
    expected = [[2.0, 6.0, 40.0], [1.0, 3.0, 4.5], [1.0, 2.0, 2.0], [0.0, 1.0, 1.0]]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_report_of_weights_is_recorded_whole(path):
    weight = torch.nn.Parameter(torch.tensor([0.5, -0.002]))
    clipper = clipwise.torch.WeightClipper([weight], clipwise.clip_by_value(BOUND))
    clipper.clip_()
    with Monitor(path) as monitor:
        monitor.record(clipper.report, name="own")
        monitor.attach(clipper, "attached")
        clipper.clip_()
        monitor.log(loss=1.0)
    with Store(path) as store:
        found = [
            store.series(1, ["clipwise/at_bound"], one)["clipwise/at_bound"] for one in ("own", "attached")
        ]
        assert store.series(1, ["loss"])["loss"].steps.tolist() == [clipper.steps]
        assert store.run().clip is None  # nothing was done to gradients
        assert not any(len(store.layers(1, one).steps) for one in store.sources(1))
    assert [one.values.tolist() for one in found] == [[0.5], [0.5]]


@pytest.mark.parametrize("layers_every", [10, 0])
def test_rules_do_not_take_it_for_a_clip_of_gradients(path, layers_every):
    """Every step goes far beyond the bound, and nearly nothing of it is left."""
    with Monitor(path, rules=default_rules(), layers_every=layers_every) as monitor:
        train(monitor, "", 230, rate=500.0)
    with Store(path) as store:
        assert store.series(1, ["clipwise/clip_fraction"], "weights")
        assert store.alerts(1) == []
        assert replay(default_rules(), store, 1) == []


def test_its_name_is_taken_then(path):
    with Monitor(path) as monitor:
        train(monitor, "", 1)
        with pytest.raises(ArgumentError, match="'weights' is attached already"):
            monitor.record(
                clipwise.ClipReport(norm=1, norm_after=1, threshold=1, clipped=0, clip_fraction=0),
                name="weights",
            )
