"""The tasks: their data by formula, their settings, and the loop against one written by hand."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import wasserstein_distance
from torch import nn

from clipwise.lab.recording import RecordingTarget
from clipwise.lab.suite.catalog import TASKS
from clipwise.lab.suite.configured import Configured
from clipwise.lab.suite.methods import BASELINE, METHODS, Method, Variant
from clipwise.lab.suite.models import Elman
from clipwise.lab.suite.task import Trial, run
from clipwise.lab.suite.tasks.addition import sums
from clipwise.lab.suite.tasks.cartpole import GAMMA, LAMBDA, advantages
from clipwise.lab.suite.tasks.chorales import next_chord_nll
from clipwise.lab.suite.tasks.deep_digits import deep_network
from clipwise.lab.suite.tasks.digits import pixels
from clipwise.lab.suite.tasks.swiss_roll import points, sliced_distance
from clipwise.lab.suite.tasks.temporal_order import RATE, TemporalOrder, sequences
from clipwise.lab.training.schedule import Schedule
from tests.depth import brief

EXAMPLES = Path(__file__).parents[3] / "examples"


@pytest.mark.parametrize(
    "name",
    brief(
        [name for name, task in TASKS.items() if "tiny" in task.sizes],
        "sequential-digits",
        "deep-digits",
        "characters-spikes",
        "pm25",
        "swiss-roll",
        "critic-slope",
    ),
)
def test_every_task_runs_with_a_clip_and_the_best_of_its_variants_counts(name: str, tmp_path: Path) -> None:
    task = TASKS[name]
    rates = (Variant(rate=1e-3), Variant(rate=0.5, schedule=True))
    methods = [Method("two", "two rates", "clip_by_global_norm(0.25)", variants=rates)]
    if task.methods is not METHODS:
        methods = [list(task.methods.values())[-1]]
    for method in methods:
        result = run(task, method, 0, "tiny", RecordingTarget(tmp_path / "a.db"))
        sound = [value for value in result.tried if value is not None and math.isfinite(value)]
        best = min(sound) if task.lower_is_better else max(sound)
        assert result.figures.final == best == result.curve[-1][1]
        assert result.variant == method.variants[result.tried.index(best)]
        assert result.figures.metric == task.metric
        assert result.figures.label == method.label
    again = run(task, method, 0, "tiny", RecordingTarget(tmp_path / "b.db"))
    assert again.tried == result.tried


@pytest.mark.parametrize("threshold", [None, 0.05])
def test_the_loop_is_that_of_torch(threshold: float | None, tmp_path: Path) -> None:
    task = TemporalOrder(50, "smart")
    method = BASELINE if threshold is None else Method("m", "m", f"clip_by_global_norm({threshold})")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        trial = Trial(method, Variant(), 3, "tiny", RecordingTarget(tmp_path / "a.db"))
        model = task.build(trial).model
    record = task.train(trial)
    drawn = torch.Generator().manual_seed(3)
    for step in range(6):
        x, y = sequences(20, 50, drawn)
        loss = nn.functional.cross_entropy(model(x), y)
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        norm = torch.cat([g.double().ravel() for g in gradients]).norm()
        scale = 1.0 if threshold is None else min(1.0, threshold / float(norm))
        assert record.steps["loss"][step] == pytest.approx(float(loss.detach()), rel=1e-5)
        assert record.steps["norm"][step] == pytest.approx(float(norm), rel=1e-5)
        with torch.no_grad():
            for parameter, gradient in zip(model.parameters(), gradients, strict=True):
                parameter -= RATE * scale * gradient
    test = sequences(50, 50, torch.Generator().manual_seed(2013))
    errors = float((model(test[0]).argmax(1) != test[1]).double().mean())
    assert record.final["errors"] == pytest.approx(errors)


@pytest.mark.parametrize("f", ["tanh", "sigmoid", "relu", "norm"])
def test_a_recurrence_step_by_step(f: str) -> None:
    torch.manual_seed(0)
    model = Elman(3, 4, 2, "tanh" if f == "norm" else f, layer_norm=f == "norm").double()
    model.each = True
    x = torch.randn(2, 5, 3, dtype=torch.float64)
    w, u, b, c = (p.detach().numpy() for p in model.cell.parameters())
    state = np.zeros((2, 4))
    expected = []
    for t in range(5):
        z = x[:, t].numpy() @ w.T + b + state @ u.T + c
        if f == "norm":
            z = (z - z.mean(1, keepdims=True)) / np.sqrt(z.var(1, keepdims=True) + 1e-5)
        state = {"sigmoid": lambda z: 1 / (1 + np.exp(-z)), "relu": lambda z: np.maximum(z, 0)}.get(
            f, np.tanh
        )(z)
        expected.append(state @ model.head.weight.detach().numpy().T + model.head.bias.detach().numpy())
    np.testing.assert_allclose(model(x).detach().numpy(), np.stack(expected, 1), rtol=1e-9)
    model.each = False
    np.testing.assert_allclose(model(x).detach().numpy(), expected[-1], rtol=1e-9)


def test_temporal_order_is_told_by_the_two_symbols_alone() -> None:
    x, y = sequences(500, 50, torch.Generator().manual_seed(0))
    symbols = x.argmax(2).numpy()
    for row, answer in zip(symbols, y.tolist(), strict=True):
        first, second = np.flatnonzero(row < 2)
        assert 5 <= first < 10
        assert 25 <= second < 30
        assert answer == 2 * row[first] + row[second]
    assert set(y.tolist()) == {0, 1, 2, 3}


def test_the_sum_is_that_of_the_marked() -> None:
    x, y = sums(200, torch.Generator().manual_seed(0))
    marked = x[:, :, 1] == 1
    assert (marked[:, :10].sum(1) == 1).all()
    assert (marked[:, 10:].sum(1) == 1).all()
    expected = [float(row[mark, 0].double().sum()) for row, mark in zip(x, marked, strict=True)]
    np.testing.assert_allclose(y.numpy(), expected, rtol=1e-6)
    assert float((y - 1).square().mean()) == pytest.approx(1 / 6, abs=0.03)  # always answering 1


def test_digits_are_all_there_in_an_order_that_stays() -> None:
    from sklearn.datasets import load_digits

    x, y = pixels()
    images, digits = load_digits(return_X_y=True)
    assert x.shape == (1797, 64, 1)
    assert float(x.min()) == 0
    assert float(x.max()) == 1
    np.testing.assert_array_equal(np.bincount(y), np.bincount(digits))
    np.testing.assert_allclose(float(x.double().sum()), images.sum() / 16)


def test_the_likelihood_of_a_chord_is_that_of_its_keys() -> None:
    random = np.random.default_rng(0)
    x = (random.random((2, 4, 5)) < 0.3).astype(float)
    known = np.array([[1, 1, 1], [1, 0, 0]])  # the second is two chords long
    model = nn.Linear(5, 5).double()
    found = next_chord_nll(model, torch.as_tensor(x), torch.as_tensor(known))
    weights, biases = (p.detach().numpy() for p in model.parameters())
    p = 1 / (1 + np.exp(-x[:, :-1] @ weights.T - biases))
    each = -np.log(np.where(x[:, 1:] == 1, p, 1 - p)).sum(2)
    assert float(found.detach()) == pytest.approx(np.mean([*each[0], each[1, 0]]), rel=1e-12)


@pytest.mark.parametrize("norm", ["", "layer-norm", "batch-norm"])
def test_a_deep_network_normalises_before_each_relu(norm: str) -> None:
    torch.manual_seed(0)
    model = deep_network(7, 3, norm).double()
    x = torch.randn(6, 7, dtype=torch.float64)
    *hidden, last = [layer.weight.detach().numpy() for layer in model if isinstance(layer, nn.Linear)]
    assert len(hidden) == 8
    h = x.numpy()
    for weights in hidden:
        z = h @ weights.T
        if norm:
            over = 0 if norm == "batch-norm" else 1
            z = (z - z.mean(over, keepdims=True)) / np.sqrt(z.var(over, keepdims=True) + 1e-5)
        h = np.maximum(z, 0)
    np.testing.assert_allclose(model(x).detach().numpy(), h @ last.T, rtol=1e-9)


def test_the_distance_is_that_of_scipy() -> None:
    one = points(60, torch.Generator().manual_seed(0))
    other = points(60, torch.Generator().manual_seed(1)) + 0.3
    angles = np.pi * np.arange(64) / 64
    expected = np.mean(
        [
            wasserstein_distance(*((each.double().numpy() @ [np.cos(a), np.sin(a)]) for each in (one, other)))
            for a in angles
        ]
    )
    assert sliced_distance(one, other) == pytest.approx(expected, rel=1e-9)
    assert sliced_distance(one, one) == 0


def test_advantages_are_the_sum_of_discounted_errors() -> None:
    random = np.random.default_rng(0)
    rewards, values = random.random((6, 2)), random.random((6, 2))
    following = random.random(2)
    ends = np.zeros((6, 2))
    ends[3, 0] = 1
    found = advantages(rewards, values, following, ends)
    after = np.vstack([values[1:], following])
    for env in range(2):
        for t in range(6):
            total, weight = 0.0, 1.0
            for s in range(t, 6):
                alive = 1 - ends[s, env]
                total += weight * (rewards[s, env] + GAMMA * after[s, env] * alive - values[s, env])
                weight *= GAMMA * LAMBDA * alive
            assert found[t, env] == pytest.approx(total, rel=1e-12)


@pytest.mark.parametrize(
    ("name", "example"),
    [
        ("characters-lstm", "shakespeare-lstm-sgd"),
        ("support-chat", "chatbot-gru"),
        ("pm25", "pm25-lstm"),
        ("invoices", "fraud-lstm"),
    ],
)
def test_a_task_is_the_configuration_that_lies_in_the_examples(name: str, example: str) -> None:
    task = TASKS[name]
    assert isinstance(task, Configured)
    theirs = json.loads((EXAMPLES / f"{example}.json").read_text())
    theirs["training_parameters"].pop("gradient_clipping")
    assert task.config == theirs


def test_a_variant_changes_one_thing_of_a_configuration() -> None:
    task = TASKS["pm25"]
    assert isinstance(task, Configured)
    plain = task.configuration("small").to_dict()

    def changed(variant: Variant) -> dict[str, object]:
        other = task.configuration("small", variant).to_dict()
        return {
            key: value
            for section in ("training_parameters", "model_parameters")
            for key, value in other[section].items()
            if value != plain[section][key]
        }

    assert changed(Variant()) == {}
    assert changed(Variant(rate=0.1)) == {"learning_rate": 0.1}
    assert changed(Variant(weight_decay=1e-4)) == {"weight_decay": 1e-4}
    assert changed(Variant(layer_norm=True)) == {"layer_norm": True}
    assert changed(Variant(schedule=True)) == {"warmup": 25, "decay": "cosine"}


def test_a_schedule_keeps_the_proportions_of_the_groups() -> None:
    groups = [{"params": [nn.Parameter(torch.zeros(1))], "lr": rate} for rate in (1.0, 0.1)]
    optimizer = torch.optim.SGD(groups)
    schedule = Schedule(optimizer, 100, warmup=9, decay="cosine")
    rates = []
    for step in range(100):
        schedule.before(step)
        rates.append([group["lr"] for group in optimizer.param_groups])
    t = np.arange(91) / 91
    expected = np.concatenate([np.arange(1, 10) / 10, (1 + np.cos(np.pi * t)) / 2])
    np.testing.assert_allclose(rates, np.outer(expected, [1.0, 0.1]), rtol=1e-12)
