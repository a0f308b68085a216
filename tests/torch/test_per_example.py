"""Clipped gradients of single examples: every route against the examples one by one, in float64."""

import copy
import functools
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import clipwise
from clipwise import thresholds
from clipwise.errors import ArgumentError, NonFiniteError, ParameterError, StateError
from clipwise.torch import per_example

CE = nn.CrossEntropyLoss(reduction="none")


def each_ce(outputs, targets):
    return F.cross_entropy(outputs.transpose(1, 2), targets, reduction="none").mean(1)


class Tied(nn.Module):
    """Tied tables, positions of all examples, a layer used twice, and parameters outside of any layer."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(60, 6, padding_idx=0)
        self.twice = nn.Linear(6, 6)
        self.out = nn.Linear(6, 60, bias=False)
        self.out.weight = self.table.weight
        self.places = nn.Embedding(5, 6)
        self.shift = nn.Parameter(torch.randn(1, 5, 6))
        self.first = nn.Parameter(torch.randn(1, 1, 6))
        self.scale = nn.Parameter(torch.randn(6))

    def forward(self, x):
        h = self.table(x) + self.shift + self.places(torch.arange(x.shape[1]))
        h = self.twice(self.twice(h).tanh()) * self.scale
        return self.out(torch.cat([self.first.expand(len(x), -1, -1), h], 1))


class LoRA(nn.Module):
    """A frozen weight with a product of two added, beside a plain matrix."""

    def __init__(self):
        super().__init__()
        self.base = nn.Linear(4, 5)
        self.base.requires_grad_(False)
        self.a, self.b = nn.Parameter(torch.randn(2, 4)), nn.Parameter(torch.randn(5, 2))
        self.matrix = nn.Parameter(torch.randn(4, 3))
        self.head = nn.Linear(5, 3)
        self.unused = nn.Parameter(torch.randn(2))

    def forward(self, x):
        low_rank = F.linear(x, self.base.weight + self.b @ self.a, self.base.bias)
        return self.head(low_rank) + x @ self.matrix


class Attention(nn.Module):
    """Attention of torch, to itself and to others."""

    def __init__(self, dropout=0.0):
        super().__init__()
        options = {"batch_first": True, "dropout": dropout}
        self.encoder = nn.TransformerEncoderLayer(8, 2, 16, **options)
        self.decoder = nn.TransformerDecoderLayer(8, 2, 16, **options)
        self.out = nn.Linear(8, 3)

    def forward(self, x):
        return self.out(self.decoder(x, self.encoder(x)).mean(1))


class GPT2(nn.Module):
    """As in Hugging Face's: rows of all positions at once, and a weight that is (in, out)."""

    def __init__(self):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(4, 3)), nn.Parameter(torch.zeros(3))

    def forward(self, x):
        return torch.addmm(self.bias, x.view(-1, 4), self.weight).view(*x.shape[:2], 3).mean(1)


def mlp():
    return nn.Sequential(nn.Linear(4, 7), nn.ReLU(), nn.Linear(7, 3))


def sequence():
    norms = nn.LayerNorm(7), nn.Tanh(), nn.RMSNorm(7)
    return nn.Sequential(nn.Linear(4, 7), *norms, nn.Linear(7, 3), nn.Flatten(), nn.Linear(15, 3))


def image():
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.GroupNorm(2, 4),
        nn.ReLU(inplace=True),
        nn.Conv2d(4, 6, 3, stride=2, groups=2, padding=1, padding_mode="reflect"),
        nn.BatchNorm2d(6).eval(),
        nn.PReLU(6),
        nn.Conv2d(6, 4, 1, bias=False),
        nn.Flatten(2),
        nn.Conv1d(4, 3, 5, padding="same", dilation=2),
        nn.AdaptiveAvgPool1d(1),
        nn.Flatten(),
    )


def volume():
    return nn.Sequential(
        nn.Conv3d(2, 4, (3, 2, 3), stride=(1, 2, 1), padding=(1, 0, 1), dilation=(2, 1, 1), groups=2),
        nn.Tanh(),
        nn.ConvTranspose3d(4, 2, 2, stride=2, output_padding=1, bias=False),
        nn.Flatten(2, 3),
        nn.ConvTranspose2d(2, 4, (3, 2), stride=(2, 1), padding=1, dilation=(1, 3), groups=2),
        nn.Flatten(2),
        nn.ConvTranspose1d(4, 3, 3, output_padding=1, dilation=2),
        nn.AdaptiveAvgPool1d(1),
        nn.Flatten(),
    )


def parametrized():
    return nn.Sequential(
        torch.nn.utils.parametrizations.weight_norm(nn.Linear(4, 7)), nn.ReLU(), nn.Linear(7, 3)
    )


def draw(*shape):
    return torch.randn(*shape, dtype=torch.float64)


MODELS = {
    "mlp": (mlp, (5, 4)),
    "sequence": (sequence, (5, 5, 4)),
    "image": (image, (5, 2, 8, 8)),
    "volume": (volume, (5, 2, 4, 4, 3)),
    "tied": (Tied, None),
    "lora": (LoRA, (5, 4)),
    "attention": (Attention, (5, 5, 8)),  # as many examples as positions
    "gpt2": (GPT2, (5, 3, 4)),
    "parametrized": (parametrized, (5, 4)),
}


def case(name):
    torch.manual_seed(0)
    make, shape = MODELS[name]
    model = make().double()
    if shape is None:
        return model, each_ce, torch.randint(0, 4, (5, 5)), torch.randint(60, (5, 6))
    return model, CE, draw(*shape), torch.randint(3, (5,))


def trainable(model):
    return [p for p in model.parameters() if p.requires_grad]


def one_by_one(model, loss_fn, inputs, targets):
    """The gradient of each example as a vector a parameter, by plain backward passes."""
    rows = []
    for i in range(len(inputs)):
        loss = loss_fn(model(inputs[i : i + 1]), targets[i : i + 1]).sum()
        found = torch.autograd.grad(loss, trainable(model), allow_unused=True)
        pairs = zip(found, trainable(model), strict=True)
        rows.append([np.zeros(p.numel()) if g is None else g.numpy().ravel() for g, p in pairs])
    return rows


def clipped_sum(rows, per, threshold):
    """The formula, in numpy."""
    total = [np.zeros_like(one) for one in rows[0]]
    for row in rows:
        norms = np.array([np.linalg.norm(one) for one in row])
        norms = np.full(len(row), np.linalg.norm(norms)) if per == "global" else norms
        for place, one in enumerate(row):
            total[place] += one * min(1.0, threshold / norms[place]) if norms[place] else 0.0
    return total


def assert_gradients(model, wanted, scale=1.0, rtol=1e-9):
    for p, total in zip(trainable(model), wanted, strict=True):
        found = np.zeros(p.numel()) if p.grad is None else p.grad.numpy().ravel()
        np.testing.assert_allclose(found, total * scale, rtol=rtol, atol=1e-12)


@pytest.mark.parametrize("route", ["ghost", "explicit"])
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_routes_against_the_examples_one_by_one(name, route):
    model, loss_fn, inputs, targets = case(name)
    rows = one_by_one(model, loss_fn, inputs, targets)
    norms = np.array([np.linalg.norm(np.concatenate(row)) for row in rows])
    threshold = float(np.median(norms))
    step = per_example(model, clipwise.clip_by_global_norm(threshold), "sum", route=route, micro_batch=None)
    losses = step.backward(loss_fn, inputs, targets)
    assert step.route == route
    assert not losses.requires_grad
    torch.testing.assert_close(losses, loss_fn(model(inputs), targets).detach())
    np.testing.assert_allclose(step.report.norms, norms, rtol=1e-9)
    np.testing.assert_allclose(step.report.norms_after, np.minimum(norms, threshold), rtol=1e-9)
    assert step.report.largest == int(norms.argmax())
    wanted = clipped_sum(rows, "global", threshold)
    assert_gradients(model, wanted)
    # Once more, in two parts and by tensor: the gradients add up.
    step = per_example(model, "clip_by_norm(0.1)", "mean", batch_size=5, route=route)
    step.backward(loss_fn, inputs[:2], targets[:2], more=True)
    step.backward(loss_fn, inputs[2:], targets[2:])
    by_tensor = clipped_sum(rows, "tensor", 0.1)
    assert_gradients(model, [a + b / 5 for a, b in zip(wanted, by_tensor, strict=True)])
    assert len(step.report) == 5
    assert step.steps == 1


@pytest.mark.parametrize("route", ["ghost", "explicit"])
def test_micro_batches_of_any_size_and_one_example(route):
    model, loss_fn, inputs, targets = case("mlp")
    wanted = clipped_sum(one_by_one(model, loss_fn, inputs, targets), "global", 0.3)
    options = {"micro_batch": 2} if route == "explicit" else {}
    step = per_example(model, clipwise.clip_by_global_norm(0.3), route=route, **options)
    step.backward(loss_fn, inputs, targets)
    assert_gradients(model, wanted, 1 / 5)
    model.zero_grad()
    for place in range(5):
        step.backward(loss_fn, inputs[place : place + 1], targets[place : place + 1])
    assert_gradients(model, wanted)  # means of one


def test_positions_are_many_or_few():
    """Both ways to the norm of a linear layer, and a table whose rows repeat within an example."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Embedding(4, 3, padding_idx=1), nn.Linear(3, 40), nn.Linear(40, 30)).double()
    inputs = torch.randint(0, 4, (4, 12))

    def loss_fn(outputs):
        return outputs.square().mean((1, 2))

    rows = []
    for i in range(4):
        found = torch.autograd.grad(loss_fn(model(inputs[i : i + 1])).sum(), list(model.parameters()))
        rows.append([g.numpy().ravel() for g in found])
    step = per_example(model, clipwise.clip_by_norm(1e-3), "sum", route="ghost")
    step.backward(loss_fn, inputs)
    assert_gradients(model, clipped_sum(rows, "tensor", 1e-3))


class Recurrent(nn.Module):
    """Words through a recurrent layer, to a loss that sees every state that comes out."""

    def __init__(self, layer):
        super().__init__()
        self.table, self.layer, self.out = nn.Embedding(9, 4), layer, nn.LazyLinear(3)
        self.double()(torch.randint(9, (2, 5)))

    def forward(self, x):
        x = self.table(x)
        first = self.layer.batch_first
        outputs, states = self.layer(x if first else x.transpose(0, 1))
        states = [states] if isinstance(states, torch.Tensor) else states
        every = [outputs if first else outputs.transpose(0, 1), *(one.transpose(0, 1) for one in states)]
        return self.out(torch.cat([one.flatten(1) for one in every], 1).tanh())


class Cells(nn.Module):
    """A loop over time by hand."""

    def __init__(self, cell):
        super().__init__()
        self.cell, self.out = cell, nn.Linear(3, 3)
        self.double()

    def forward(self, x):
        state = None
        for own in x.unbind(1):
            state = self.cell(own, state)
        return self.out(state[0] if isinstance(state, tuple) else state)


RECURRENT = {
    "lstm": lambda: Recurrent(nn.LSTM(4, 3, batch_first=True)),
    "lstm both ways, projected": lambda: Recurrent(nn.LSTM(4, 3, 2, bidirectional=True, proj_size=2)),
    "gru": lambda: Recurrent(nn.GRU(4, 3, 2, bidirectional=True, batch_first=True)),
    "gru without biases": lambda: Recurrent(nn.GRU(4, 3, bias=False)),
    "rnn": lambda: Recurrent(nn.RNN(4, 3, 2)),
    "rnn of relu": lambda: Recurrent(nn.RNN(4, 3, bidirectional=True, nonlinearity="relu")),
    "lstm cell": lambda: Cells(nn.LSTMCell(4, 3)),
    "gru cell": lambda: Cells(nn.GRUCell(4, 3, bias=False)),
    "rnn cell": lambda: Cells(nn.RNNCell(4, 3)),
}


@pytest.mark.parametrize("name", RECURRENT)
def test_recurrent_layers_against_the_examples_one_by_one(name):
    torch.manual_seed(0)
    model = RECURRENT[name]()
    if name == "gru":  # weights that are frozen are passed by
        model.table.requires_grad_(False)
        model.layer.weight_ih_l0.requires_grad_(False)
        model.layer.weight_hh_l1_reverse.requires_grad_(False)
    inputs = draw(4, 5, 4) if isinstance(model, Cells) else torch.randint(9, (4, 5))
    targets = torch.randint(3, (4,))
    rows = one_by_one(model, CE, inputs, targets)
    step = per_example(model, clipwise.clip_by_global_norm(0.1), "sum", route="ghost")
    losses = step.backward(CE, inputs, targets)
    torch.testing.assert_close(losses, CE(model(inputs), targets).detach())
    norms = [[np.linalg.norm(one) for one in row] for row in rows]
    np.testing.assert_allclose(step.report.tensor_norms, norms, rtol=1e-9, atol=1e-12)
    assert_gradients(model, clipped_sum(rows, "global", 0.1))


@pytest.mark.parametrize("name", ["lstm", "gru", "lstm cell"])
def test_recurrent_layers_in_mixed_precision(name):
    torch.manual_seed(0)
    model = RECURRENT[name]().float()
    inputs = draw(4, 5, 4).float() if isinstance(model, Cells) else torch.randint(9, (4, 5))
    targets = torch.randint(3, (4,))
    rows = one_by_one(model, CE, inputs, targets)
    step = per_example(model, clipwise.clip_by_global_norm(0.1), "sum", route="ghost")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        step.backward(CE, inputs, targets)
    norms = [np.linalg.norm(np.concatenate(row)) for row in rows]
    np.testing.assert_allclose(step.report.norms, norms, rtol=0.1)


def test_recurrent_layers_that_share_a_learned_first_state_or_are_given_packed_sequences():
    """The state has a gradient of its own; a packed sequence is named, and goes another way."""

    class Learned(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.GRU(4, 3, batch_first=True), nn.GRU(3, 3)
            self.state = nn.Parameter(torch.randn(1, 1, 3))

        def forward(self, x):
            state = self.state.expand(-1, len(x), -1).contiguous()
            x = self.first(x, state)[0]
            return self.second(x.transpose(0, 1), state)[1][0]

    class Packed(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.GRU(4, 3, batch_first=True)

        def forward(self, x):
            packed = nn.utils.rnn.pack_padded_sequence(x, [5] * len(x), batch_first=True)
            return self.layer(packed)[1][0]

    torch.manual_seed(0)
    only_state = Learned().double()
    for layer in (only_state.first, only_state.second):
        layer.requires_grad_(False)
    for model, route in (
        (Learned().double(), "ghost"),
        (only_state, "ghost"),
        (Packed().double(), "auto"),
    ):
        inputs, targets = draw(3, 5, 4), torch.randint(3, (3,))
        step = per_example(model, clipwise.clip_by_global_norm(0.1), "sum", route=route)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            step.backward(CE, inputs, targets)
        assert_gradients(model, clipped_sum(one_by_one(model, CE, inputs, targets), "global", 0.1))
        said = any("'layer.weight_ih_l0' is applied to a packed" in str(one.message) for one in caught)
        assert said == isinstance(model, Packed)


def test_dropout_is_drawn_once_for_norms_and_sums():
    """Whatever was drawn: every example is cut to the threshold, so the sum of one is of that norm."""
    torch.manual_seed(0)
    model = Attention(dropout=0.5).double()
    for route in ("ghost", "explicit"):
        model.zero_grad()
        step = per_example(model, clipwise.clip_by_global_norm(1e-3), "sum", route=route)
        step.backward(CE, draw(1, 5, 8), torch.tensor([2]))
        whole = torch.cat([p.grad.ravel() for p in model.parameters()]).norm()
        assert float(whole) == pytest.approx(1e-3, rel=1e-9)
        assert model.training
    words = Recurrent(nn.LSTM(4, 3, 2, dropout=0.5))
    step = per_example(words, clipwise.clip_by_global_norm(1e-3), "sum", route="ghost")
    step.backward(CE, torch.randint(9, (1, 5)), torch.tensor([2]))
    whole = torch.cat([p.grad.ravel() for p in words.parameters()]).norm()
    assert float(whole) == pytest.approx(1e-3, rel=1e-9)
    model = nn.Sequential(nn.Dropout(0.5), nn.Linear(64, 1)).double()
    step = per_example(model, clipwise.clip_by_global_norm(1e9), route="explicit")
    step.backward(lambda outputs: outputs.squeeze(1), torch.ones(2, 64, dtype=torch.float64))
    assert float(step.report.norms[0]) != float(step.report.norms[1])  # a mask each


@pytest.mark.parametrize(
    ("policy", "coefficients"),
    [
        (thresholds.fixed(0.5), lambda norms, weight: np.minimum(1, 0.5 / norms)),
        (thresholds.relative(0.1), lambda norms, weight: np.minimum(1, 0.1 * weight / norms)),
        (thresholds.automatic(5.0), lambda norms, weight: 5.0 / (norms + 0.01)),
        (thresholds.linear(0.2, 0.1, 10), lambda norms, weight: np.minimum(1, 0.2 / norms)),
        (thresholds.quantile_ema(start=0.3), lambda norms, weight: np.minimum(1, 0.3 / norms)),
        (thresholds.percentile(50), lambda norms, weight: np.ones(len(norms))),
    ],
    ids=lambda part: getattr(type(part), "__name__", None),
)
def test_any_policy_is_a_threshold(policy, coefficients):
    model, loss_fn, inputs, targets = case("mlp")
    rows = one_by_one(model, loss_fn, inputs, targets)
    norms = np.array([np.linalg.norm(np.concatenate(row)) for row in rows])
    weight = float(torch.cat([p.detach().ravel() for p in model.parameters()]).norm())
    factors = coefficients(norms, weight)
    step = per_example(model, clipwise.Clip(policy), "sum")
    step.backward(loss_fn, inputs, targets)
    wanted = [sum(c * row[k] for c, row in zip(factors, rows, strict=True)) for k in range(len(rows[0]))]
    assert_gradients(model, wanted)


def test_adaptive_thresholds_learn_from_all_examples_of_a_step():
    model, loss_fn, inputs, targets = case("mlp")
    quantile = per_example(model, clipwise.Clip(thresholds.quantile_ema(0.5, rate=0.2, start=0.3)))
    median = per_example(model, clipwise.autoclip(50), batch_size=5)
    quantile.backward(loss_fn, inputs, targets)
    norms = quantile.report.norms.numpy()
    median.backward(loss_fn, inputs[:3], targets[:3], more=True)
    median.backward(loss_fn, inputs[3:], targets[3:])
    for step in (quantile, median):
        loaded = per_example(model, step.options.clip, batch_size=5)
        loaded.load_state_dict(copy.deepcopy(step.state_dict()))
        loaded.backward(loss_fn, inputs, targets)
        step.backward(loss_fn, inputs, targets)
        assert float(step.report.threshold) == float(loaded.report.threshold)
    share = np.mean(norms <= 0.3)  # Andrew et al.
    assert float(quantile.report.threshold) == pytest.approx(0.3 * np.exp(-0.2 * (share - 0.5)), rel=1e-12)
    assert float(median.report.threshold) == pytest.approx(np.median(norms), rel=1e-12)
    with pytest.raises(StateError):
        median.load_state_dict(quantile.state_dict())


def test_parts_and_chains():
    model, loss_fn, inputs, targets = case("mlp")
    inputs = inputs.abs() + 1
    rows = one_by_one(model, loss_fn, inputs, targets)
    clip = clipwise.by_name(
        {"0.*": clipwise.clip_by_global_norm(0.1), "2.weight": clipwise.clip_by_norm(0.2)}
    )
    clip = clipwise.chain(clip, clipwise.clip_by_global_norm(0.15))
    step = per_example(model, clip, "sum")
    step.backward(loss_fn, inputs, targets)
    total = [np.zeros_like(one) for one in rows[0]]
    for row in rows:
        first = min(1, 0.1 / np.hypot(*(np.linalg.norm(one) for one in row[:2])))
        row = [row[0] * first, row[1] * first, row[2] * min(1, 0.2 / np.linalg.norm(row[2])), row[3]]
        last = min(1, 0.15 / np.linalg.norm(np.concatenate(row)))
        total = [a + last * b for a, b in zip(total, row, strict=True)]
    assert_gradients(model, total)
    assert step.sensitivity() == pytest.approx(0.15)
    other = per_example(model, clipwise.Clip(0.7, norm=1.0, per="tensor"), "sum")
    other.backward(loss_fn, inputs, targets)
    assert other.route == "explicit"
    np.testing.assert_allclose(
        other.report.tensor_norms, [[np.abs(one).sum() for one in row] for row in rows], rtol=1e-12
    )


def test_sensitivity_and_noise():
    model = mlp()
    flat = clipwise.clip_by_global_norm(0.5)
    assert per_example(model, flat, "sum").sensitivity() == 0.5
    assert per_example(model, flat, "mean", batch_size=10).sensitivity() == 0.05
    assert per_example(model, clipwise.clip_by_norm(0.5), "sum").sensitivity() == pytest.approx(
        1.0
    )  # sqrt(4)
    assert per_example(model, clipwise.Clip(thresholds.automatic(0.3)), "sum").sensitivity() == 0.3
    halves = clipwise.by_name({"0.*": flat})
    assert per_example(model, halves, "sum").sensitivity() == np.inf
    with pytest.raises(ArgumentError, match="batch_size"):
        per_example(model, flat).sensitivity()
    with pytest.raises(ArgumentError, match="batch_size"):
        per_example(model, flat, noise_multiplier=1.0)
    with pytest.raises(ArgumentError, match="without a bound"):
        per_example(model, halves, "sum", noise_multiplier=1.0)
    with pytest.raises(ArgumentError, match=r"percentile.*sensitivity"):
        per_example(model, clipwise.autoclip(10), "sum", noise_multiplier=1.0)

    big = nn.Linear(300, 300).double()
    generator = torch.Generator().manual_seed(0)
    step = per_example(big, flat, batch_size=4, noise_multiplier=3.0, generator=generator)
    inputs = torch.zeros(4, 300, dtype=torch.float64)

    def loss_fn(outputs):
        return 0 * outputs.sum(1)

    step.backward(loss_fn, inputs[:2], more=True)
    assert not big.weight.grad.any()  # once a step, after its last call
    step.backward(loss_fn, inputs[2:])
    noise = torch.cat([p.grad.ravel() for p in big.parameters()])
    assert float(noise.std()) == pytest.approx(3.0 * 0.5 / 4, rel=0.02)
    assert abs(float(noise.mean())) < 0.01
    again = nn.Linear(300, 300).double()
    step = per_example(again, flat, batch_size=4, noise_multiplier=3.0, generator=generator.manual_seed(0))
    step.backward(loss_fn, inputs[:0])  # a batch that was drawn at random may be empty
    assert torch.equal(again.weight.grad, big.weight.grad)


@pytest.mark.parametrize("route", ["ghost", "explicit"])
def test_examples_that_are_not_finite(route):
    model, loss_fn, inputs, targets = case("sequence")  # with layers that the backward pass comes by
    wanted = clipped_sum(one_by_one(model, loss_fn, inputs[:4], targets[:4]), "global", 0.3)
    inputs[4, 0] = float("nan")
    make = functools.partial(per_example, model, clipwise.clip_by_global_norm(0.3), "sum", route=route)
    step = make(nonfinite="drop")
    step.backward(loss_fn, inputs, targets, keys=["a", "b", "c", "d", "e"])
    assert_gradients(model, wanted)
    assert step.report.examples(1)[0][0] == "e"
    assert "nan" in str(step.report)
    with pytest.raises(NonFiniteError, match="example 4"):
        make(nonfinite="error").backward(loss_fn, inputs, targets)
    assert_gradients(model, wanted)
    make().backward(loss_fn, inputs, targets)
    assert torch.isnan(model[0].weight.grad).any()


@pytest.mark.parametrize("route", ["ghost", "explicit"])
@pytest.mark.filterwarnings("ignore:per_example. torch.func does not support this model")
def test_mixed_precision(route):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 7), nn.LayerNorm(7), nn.Flatten(), nn.Linear(35, 3))
    inputs, targets = torch.randn(4, 5, 4), torch.randint(3, (4,))
    rows = one_by_one(model, CE, inputs, targets)
    wanted = clipped_sum(rows, "global", 0.2)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    step = per_example(model, clipwise.clip_by_global_norm(0.2), "sum", route=route)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        step.backward(CE, inputs, targets, scaler=scaler)
    norms = [np.linalg.norm(np.concatenate(row)) for row in rows]
    np.testing.assert_allclose(step.report.norms, norms, rtol=0.1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler.unscale_(optimizer)
    found = np.concatenate([p.grad.numpy().ravel() for p in model.parameters()])
    exact = np.concatenate(wanted)
    assert np.linalg.norm(found - exact) < 0.1 * np.linalg.norm(exact)


def test_what_has_no_formula_is_said_once():
    class Without(nn.Module):
        def __init__(self):
            super().__init__()
            self.pair, self.tall = nn.Bilinear(4, 4, 3), nn.Parameter(torch.randn(2, 4))
            self.conv, self.scale = nn.Conv1d(1, 1, 3, padding=1), nn.Parameter(torch.randn(4))

        def forward(self, x):
            x = F.linear(x, torch.cat([self.tall, self.tall]).exp())
            x = self.conv(self.conv(x[:, None] * self.scale)).squeeze(1)
            return self.pair(x, x)

    torch.manual_seed(0)
    model, inputs, targets = Without().double(), draw(5, 4), torch.randint(3, (5,))
    step = per_example(model, clipwise.clip_by_global_norm(0.3), "sum", route="ghost")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            model.zero_grad()
            step.backward(CE, inputs, targets)
    said = [str(one.message) for one in caught if "per_example" in str(one.message)]
    assert len(said) == 2  # not of what takes no more than an activation: the scale, three weights
    assert "'tall' passes through cat" in said[0]
    assert "'pair.weight' is used in bilinear" in said[1]
    assert_gradients(model, clipped_sum(one_by_one(model, CE, inputs, targets), "global", 0.3))


def test_what_a_route_cannot_follow_is_said_once_and_found_otherwise():
    class Hidden(torch.autograd.Function):
        """Its weight meets the examples where no function of torch is seen."""

        @staticmethod
        def forward(ctx, x, weight):
            ctx.save_for_backward(x, weight)
            return x * weight

        @staticmethod
        def backward(ctx, gradient):
            x, weight = ctx.saved_tensors
            return gradient * weight, (gradient * x).sum(0)

    class Unseen(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale, self.head = nn.Parameter(torch.randn(4)), nn.Linear(4, 3)

        def forward(self, x):
            return self.head(Hidden.apply(x, self.scale))

    torch.manual_seed(0)
    model = Unseen().double()
    inputs, targets = draw(5, 4), torch.randint(3, (5,))
    wanted = clipped_sum(one_by_one(model, CE, inputs, targets), "global", 0.3)
    step = per_example(model, clipwise.clip_by_global_norm(0.3), "sum")
    with pytest.warns(UserWarning, match="a loop over single examples") as caught:
        step.backward(CE, inputs, targets)
    model.zero_grad()
    step.backward(CE, inputs, targets)
    said = [str(one.message) for one in caught if "per_example" in str(one.message)]
    assert len(said) == 2  # of each route that fails, once
    assert "'scale'" in said[0]
    assert caught[0].filename == __file__
    assert step.route == "loop"
    assert_gradients(model, wanted)
    with pytest.raises(ArgumentError, match="'scale'"):
        per_example(model, clipwise.clip_by_global_norm(0.3), route="ghost").backward(CE, inputs, targets)


def test_what_is_refused_before_a_backward_pass():
    model, _, inputs, targets = case("mlp")
    clip = clipwise.clip_by_global_norm(1.0)
    step = per_example(model, clip)

    def refused(pattern, loss_fn=CE, inputs=inputs, targets=targets, step=step, **options):
        with pytest.raises(ArgumentError, match=pattern):
            step.backward(loss_fn, inputs, targets, **options)
        assert all(p.grad is None for p in step.model.parameters())

    refused('reduction="none"', nn.CrossEntropyLoss())
    refused("reduce the other axes", lambda out, _: out)
    refused("along axis 0", lambda out, _: out.sum(0))
    refused("depends on the others", lambda out, t: CE(out, t) / len(out))
    refused("depends on the others", lambda out, t: CE(out - out.mean(0), t))
    refused("no parameter", lambda out, t: CE(out.detach(), t))
    refused("the same number of examples", targets=targets[:3])
    refused("batch_size", more=True)
    refused("5 examples, got 2", keys=[1, 2])
    refused("tensor with the examples", inputs=3.0, targets=None)
    flat = nn.Sequential(nn.Linear(4, 4), nn.Flatten(0))
    refused("along axis 0", lambda out: out, targets=None, step=per_example(flat.double(), clip))

    with pytest.raises(ArgumentError, match=r"'1' \(BatchNorm1d\).*GroupNorm.*eval"):
        per_example(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)), clip)
    with pytest.raises(ArgumentError, match="scale_grad_by_freq"):
        per_example(nn.Embedding(4, 2, scale_grad_by_freq=True), clip)
    with pytest.raises(ParameterError, match="no parameter"):
        per_example(nn.ReLU(), clip)
    for bad in (clipwise.clip_by_value(1.0), clipwise.adaptive_grad_clip(), clipwise.skip_spikes()):
        with pytest.raises(ArgumentError):
            per_example(model, bad)
    with pytest.raises(ArgumentError, match="loss"):
        per_example(model, clipwise.Clip(thresholds.reduce_on_instability(1.0)))
    for options in (
        {"loss": "max"},
        {"route": "fast"},
        {"nonfinite": "skip"},
        {"batch_size": 0},
        {"micro_batch": 0},
        {"micro_batch": 2, "route": "ghost"},
        {"loss": "sum", "batch_size": 4},
        {"noise_multiplier": -1.0},
        {"generator": torch.Generator()},
    ):
        with pytest.raises(ArgumentError):
            per_example(model, clip, **options)
    with pytest.raises(ArgumentError, match="2-norms"):
        per_example(model, clipwise.clip_by_global_norm(1.0, norm=1.0), route="ghost")
    with pytest.raises(ArgumentError, match="per_example"):
        clipwise.torch.attach(torch.optim.SGD(model.parameters()), clipwise.Clip(thresholds.automatic()))


def test_parameters_that_thaw_keep_what_was_learned():
    model, loss_fn, inputs, targets = case("mlp")
    model[0].requires_grad_(False)
    step = per_example(model, clipwise.Clip(thresholds.quantile_ema(start=0.3), per="tensor"))
    step.backward(loss_fn, inputs, targets)
    assert model[0].weight.grad is None
    model[0].requires_grad_(True)
    step.backward(loss_fn, inputs, targets)
    assert model[0].weight.grad is not None
    assert step.report.tensor_norms.shape == (5, 4)


def test_the_report():
    model, loss_fn, inputs, targets = case("mlp")
    inputs[3] *= 100
    targets[3] = model(inputs)[3].argmin()  # as wrong as it may be
    step = per_example(model, clipwise.clip_by_global_norm(1.0))
    step.backward(loss_fn, inputs, targets, keys=torch.tensor([10, 11, 12, 13, 14]))
    report, norms = step.report, step.report.norms.numpy()
    assert report.largest == 3
    assert report.places(2) == np.argsort(-norms)[:2].tolist()
    key, norm, name = report.examples(1)[0]
    assert (key, norm) == (13, norms[3])
    assert name in dict(model.named_parameters())
    assert report.quantiles((0.5, 1.0)) == {0.5: np.median(norms), 1.0: norms.max()}
    metrics = report.metrics()
    assert metrics["clipwise/example/norm/0.9"] == pytest.approx(np.quantile(norms, 0.9))
    assert metrics["clipwise/example/clip_fraction"] == np.mean(norms > 1)
    assert metrics["clipwise/example/largest"] == 3
    assert metrics["clipwise/example/key"] == 13
    assert metrics["clipwise/example/norm_after"] == pytest.approx(1.0)
    assert "example 13" in str(report)


def test_against_opacus():
    """Its clipped sums of the same model and batch, by its hooks."""
    from opacus import GradSampleModule
    from opacus.optimizers import DPOptimizer

    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(9, 6), nn.Linear(6, 5), nn.LayerNorm(5), nn.ReLU(), nn.Flatten())
    model = nn.Sequential(*model, nn.Linear(20, 3)).double()
    inputs, targets = torch.randint(9, (6, 4)), torch.randint(3, (6,))
    other = GradSampleModule(copy.deepcopy(model), loss_reduction="sum")
    optimizer = DPOptimizer(
        torch.optim.SGD(other.parameters(), lr=0.1),
        noise_multiplier=0.0,
        max_grad_norm=0.4,
        expected_batch_size=None,
        loss_reduction="sum",
    )
    with warnings.catch_warnings(action="ignore"):  # of its hooks
        CE(other(inputs), targets).sum().backward()
    optimizer.pre_step()
    per_example(model, clipwise.clip_by_global_norm(0.4), "sum").backward(CE, inputs, targets)
    for ours, theirs in zip(model.parameters(), other.parameters(), strict=True):
        # It divides by the norm plus 1e-6.
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-12)


def test_the_monitor_records_norms_and_names_the_example(tmp_path):
    model, loss_fn, inputs, targets = case("mlp")
    step = per_example(model, clipwise.clip_by_global_norm(1.0))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with clipwise.Monitor(tmp_path / "runs.db", run="one") as monitor:
            assert monitor.attach(step) is step
            with pytest.raises(ArgumentError, match="attached already"):
                monitor.attach(step)
            for number in range(8):
                if number == 6:
                    inputs[3] *= 1e4
                    targets[3] = model(inputs)[3].argmin()
                step.backward(loss_fn, inputs, targets, keys=torch.arange(5) + 100 * number)
    assert any("example 3 of the batch (key 603)" in str(one.message) for one in caught)
    with clipwise.monitor.Store(tmp_path / "runs.db") as store:
        run = store.run("one")
        (alert,) = store.alerts(run.id)
        assert (alert.rule, alert.step) == ("example_spike", 7)
        medians = store.series(run.id, ["clipwise/example/norm/0.5"], source="examples")
        values = medians["clipwise/example/norm/0.5"].values
    assert run.clip == "clip_by_global_norm(1.0) per example"
    assert len(values) == 8
    assert values[-1] == pytest.approx(np.median(step.report.norms))


def test_alerts_of_spikes_name_the_examples(tmp_path):
    """A step that the clip of a batch found, a batch in a loop without clipped examples, and neither."""
    model, loss_fn, inputs, targets = case("mlp")
    high = clipwise.clip_by_global_norm(1e12)
    step, optimizer = per_example(model, high), torch.optim.SGD(model.parameters(), lr=0.0)
    clipper = clipwise.torch.attach(optimizer, high)
    with (
        warnings.catch_warnings(action="ignore"),
        clipwise.Monitor(tmp_path / "runs.db", run="one", examples=True) as monitor,
    ):
        for wrong in (lambda: monitor.attach(clipper), monitor.callback, lambda: monitor.record({})):
            with pytest.raises(ArgumentError, match=r"before any clipper.*explain"):
                wrong()
        monitor.attach(step)
        monitor.attach(clipper)
        for number in range(8):
            if number == 6:
                inputs[3] *= 1e4
                targets[3] = model(inputs)[3].argmin()
            if number == 7:
                inputs[:] = inputs[3]
                targets[:] = targets[3]
            optimizer.zero_grad()
            step.backward(loss_fn, inputs, targets, keys=[f"{number}/{i}" for i in range(5)])
            assert monitor.step == clipper.steps + 1
            if number != 2:  # which a gradient scaler leaves out
                optimizer.step()
        monitor.record(step.explain(loss_fn, inputs, targets), name="other", step=9)
    with pytest.raises(ArgumentError, match="examples"):
        clipwise.Monitor(tmp_path / "runs.db", examples=3)
    with clipwise.monitor.Store(tmp_path / "runs.db") as store:
        assert store.run("one").clip == clipwise.config.to_string(high)  # of the steps
        run = store.run("one").id
        alerts = {alert.rule: alert for alert in store.alerts(run)}
        largest = store.series(run, ["clipwise/example/norm/1"], source="other/examples")
    for rule, number in (("gradient_spike", 6), ("example_spike", 7)):
        assert alerts[rule].step == number
        assert "stand out: example 3 (key 6/3), with" in alerts[rule].seen
        assert alerts[rule].seen.count("key") == 1
    assert largest["clipwise/example/norm/1"].values == [float(step.report.norms.max())]


@pytest.mark.parametrize("route", ["ghost", "explicit"])
def test_explaining_a_batch_changes_nothing(route):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Dropout(0.5), *mlp()).double()
    inputs, targets = draw(5, 4), torch.randint(3, (5,))
    clip = clipwise.Clip(thresholds.quantile_ema(start=0.3))
    step = per_example(model, clip, route=route, micro_batch=None if route == "ghost" else 2)
    state, before = step.state_dict(), torch.random.get_rng_state()
    report = step.explain(CE, inputs, targets, keys=list("abcde"))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(p.grad is None for p in model.parameters())
    assert (step.steps, step.report, str(step.state_dict())) == (0, None, str(state))
    step.backward(CE, inputs, targets)
    torch.testing.assert_close(report.norms, step.report.norms)  # with the same masks
    assert report.examples(1)[0][0] == "abcde"[step.report.largest]
    with pytest.raises(ArgumentError, match="5 examples, got 1"):
        step.explain(CE, inputs, targets, keys=["a"])


def test_what_only_training_shows_takes_another_route():
    """A weight that is dropped at random is another one each time: two looks would not see the same."""

    class Dropped(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(3, 4, dtype=torch.float64))

        def forward(self, x):
            return F.linear(x, F.dropout(self.weight, 0.5, self.training))

    torch.manual_seed(0)
    model = Dropped()
    step = per_example(model, clipwise.clip_by_global_norm(0.1), "sum")
    with pytest.warns(UserWarning, match=r"'weight' is combined with random numbers in dropout.*torch\.func"):
        step.backward(CE, draw(1, 4), torch.tensor([1]))
    assert float(model.weight.grad.norm()) == pytest.approx(0.1, rel=1e-9)
    with pytest.raises(ArgumentError, match="random numbers"):
        per_example(model, step.options.clip, route="ghost").backward(CE, draw(2, 4), torch.tensor([1, 0]))
