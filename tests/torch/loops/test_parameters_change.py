"""Parameters that leave, return, or become others; and what they are known by."""

import math
import weakref

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

import clipwise
from clipwise import thresholds
from clipwise.errors import ArgumentError
from tests.torch.loops.reference_loops import make_model

pytestmark = pytest.mark.device_path

optim = torch.optim
CLIPS = {
    "global": clipwise.clip_by_global_norm(1.0),
    "percentile": clipwise.autoclip(10),
    "adagc": clipwise.adagc(),
    "agc": clipwise.adaptive_grad_clip(0.01),
    "chain": clipwise.chain(clipwise.clip_by_value(1.0), clipwise.zclip()),
    "by name": clipwise.by_name({"*": clipwise.clip_by_norm(1.0)}),
}


def parameters(count: int) -> list[nn.Parameter]:
    return [nn.Parameter(torch.full((4,), 1.0 + i)) for i in range(count)]


def step(opt: optim.Optimizer, *sizes: float) -> None:
    """One step; the gradient of each parameter has 4 entries of the next of some values."""
    every = [p for group in opt.param_groups for p in group["params"]]
    for p, size in zip(every, sizes, strict=True):
        p.grad = torch.full_like(p, size)
    opt.step()


def groups_of(tensors, **options) -> optim.SGD:
    return optim.SGD([{"params": [p]} for p in tensors], lr=0.0, **options)


def weights_norm(*tensors) -> float:
    return math.sqrt(sum(float(np.sum(t.detach().double().numpy() ** 2)) for t in tensors))


class TestAGroupThatLeaves:
    @pytest.mark.parametrize("wrap", [False, True], ids=["alone", "in a chain"])
    def test_and_returns_is_counted_once(self, wrap):
        a, b = parameters(2)
        opt = groups_of([a, b])
        clip = clipwise.Clip(thresholds.relative(0.1), per="global")
        if wrap:
            clip = clipwise.chain(clip, clipwise.clip_by_global_norm(1e9))
        clipper = clipwise.torch.attach(opt, clip)

        def threshold(*sizes):
            step(opt, *sizes)
            return float(clipper.report.norm_after)

        both, alone = 0.1 * weights_norm(a, b), 0.1 * weights_norm(a)
        assert threshold(100.0, 100.0) == pytest.approx(both, rel=1e-6)
        for _ in range(3):
            group = opt.param_groups.pop()
            assert threshold(100.0) == pytest.approx(alone, rel=1e-6)
            opt.param_groups.append(group)
            assert threshold(100.0, 100.0) == pytest.approx(both, rel=1e-6)

    @pytest.mark.parametrize("per", ["tensor", "unit"])
    def test_takes_its_history_along_and_leaves_the_others_theirs(self, per):
        a, b, c = (nn.Parameter(torch.ones(rows, 4)) for rows in (2, 3, 5))
        opt = groups_of([a, b, c])
        clipper = clipwise.torch.attach(opt, clipwise.Clip(thresholds.percentile(0.0, window=9), per=per))
        step(opt, 1.0, 2.0, 3.0)
        middle = opt.param_groups.pop(1)
        step(opt, 10.0, 30.0)
        assert a.grad.numpy() == pytest.approx(np.full((2, 4), 1.0), rel=1e-6)
        assert c.grad.numpy() == pytest.approx(np.full((5, 4), 3.0), rel=1e-6)
        opt.param_groups.append(middle)
        step(opt, 10.0, 30.0, 20.0)
        assert c.grad.numpy() == pytest.approx(np.full((5, 4), 3.0), rel=1e-6)
        assert (b.grad == 20.0).all()  # a new history, of this norm alone
        saved = clipper.state_dict()["thresholds"][0]
        assert len(set(saved["parameters"])) == len(saved["parameters"]) == 3
        assert len(saved["state"]["count"]) == (3 if per == "tensor" else 10)

    @pytest.mark.parametrize("name", CLIPS)
    @pytest.mark.parametrize("weights", [None, clipwise.clip_by_value(1.0)], ids=["gradients", "weights too"])
    def test_is_let_go_of(self, name, weights):
        class Model(nn.Module):
            def __init__(self):
                super().__init__()
                self.stays = nn.Parameter(torch.ones(4))

        model, leaves = Model(), nn.Parameter(torch.ones(4))
        opt = optim.SGD([("stays", model.stays)], lr=0.1)
        opt.add_param_group({"params": [("leaves", leaves)]})
        clipwise.torch.attach(opt, CLIPS[name], model=model, weights=weights)
        step(opt, 1.0, 2.0)
        step(opt, 1.0, 2.0)
        there = weakref.ref(leaves)
        opt.param_groups.pop()
        opt.state.pop(leaves, None)
        del leaves
        step(opt, 1.0)
        step(opt, 1.0)
        assert there() is None


SHAPES = [(2, 2), (2, 200), (8, 3), (12, 2)]  # the last two have as many entries, and other units


class TestDataOfAnotherSize:
    """``p.data`` is exchanged: the parameter is the same, and what is known of its size is not."""

    @pytest.mark.parametrize("per", ["global", "tensor", "unit"])
    @pytest.mark.parametrize("wrap", [False, True], ids=["alone", "by name"])
    def test_a_root_mean_square(self, per, wrap):
        p = nn.Parameter(torch.zeros(2, 2))
        clip = clipwise.Clip(0.1, per=per, norm="rms")
        opt = optim.SGD([("w", p)], lr=0.0)
        clipper = clipwise.torch.attach(opt, clipwise.by_name({"w": clip}) if wrap else clip)
        for shape in SHAPES:
            p.grad = None
            p.data = torch.zeros(shape)
            p.grad = torch.ones(shape)
            opt.step()
            assert p.grad.numpy() == pytest.approx(np.full(shape, 0.1), rel=1e-6)
            assert float(clipper.report.norm) == pytest.approx(1.0, rel=1e-6)
            assert float(clipper.report.norm_after) == pytest.approx(0.1, rel=1e-6)

    @pytest.mark.parametrize("wrap", [False, True], ids=["alone", "by name"])
    def test_beside_one_that_stays(self, wrap):
        p, q = nn.Parameter(torch.zeros(4)), nn.Parameter(torch.zeros(3))
        clip = clipwise.Clip(0.1, per="tensor", norm="rms")
        opt = optim.SGD([("p", p), ("q", q)], lr=0.0)
        clipper = clipwise.torch.attach(opt, clipwise.by_name({"p": clip, "q": clip}) if wrap else clip)
        for size in (4, 400, 2):
            p.grad = None
            p.data = torch.zeros(size)
            p.grad, q.grad = torch.full((size,), 3.0), torch.full((3,), 0.05)
            opt.step()
            assert p.grad.numpy() == pytest.approx(np.full(size, 0.1), rel=1e-6)
            assert q.grad.tolist() == torch.full((3,), 0.05).tolist()
            squares = size * 9.0 + 3 * 0.05**2
            assert float(clipper.report.norm) == pytest.approx(math.sqrt(squares / (size + 3)), rel=1e-6)


@pytest.fixture
def memory_full_of_nan():
    """Memory that is not written holds NaN, and not, by chance, zeros."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(before)


@pytest.mark.usefixtures("memory_full_of_nan")
@pytest.mark.parametrize("nonfinite", ["skip", "propagate"])
@pytest.mark.parametrize("scaled", [False, True], ids=["", "scaled"])
@pytest.mark.parametrize("later", [False, True], ids=["first step", "later group"])
def test_fused_sgd_that_starts_a_momentum_in_a_step_that_is_left_out(later, scaled, nonfinite):
    """torch would leave in its buffer what lies in memory."""
    if not scaled and nonfinite == "propagate":
        pytest.skip("no step is left out")
    a, b = (nn.Parameter(torch.ones(3)) for _ in range(2))
    opt = optim.SGD([a] if later else [a, b], lr=0.1, momentum=0.9, fused=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=64.0, enabled=scaled)
    clipwise.torch.attach(opt, clipwise.clip_by_norm(1.0), nonfinite=nonfinite)
    for number in range(5):
        if later and number == 2:
            opt.add_param_group({"params": [b]})
        opt.zero_grad()
        loss = 3.0 * a.sum() + 5.0 * b.sum()
        scaler.scale(loss).backward()
        if number == (2 if later else 0):
            a.grad[1] = math.nan
        scaler.step(opt)
        scaler.update()

    gradient = np.full(3, 1.0 / math.sqrt(3.0))
    for p, count in ((a, 4), (b, 2 if later else 4)):
        value, momentum = np.ones(3), np.zeros(3)
        for _ in range(count):
            momentum = 0.9 * momentum + gradient
            value -= 0.1 * momentum
        assert p.detach().numpy() == pytest.approx(value, rel=1e-6)


RATES = {
    "one entry, none": (torch.tensor([0.1]), torch.tensor(0.4)),
    "none, a number": (torch.tensor(0.4), 0.1),
    "one entry, a number": (torch.tensor([0.4]), 0.1),
    "two axes, one": (torch.tensor([[0.4]], dtype=torch.float64), torch.tensor([0.1])),
    "a number, bfloat16": (0.1, torch.tensor([0.4], dtype=torch.bfloat16)),
}


@pytest.mark.parametrize("name", RATES)
def test_auto_takes_the_largest_rate_whatever_its_shape(name):
    rates = RATES[name]
    a, b = parameters(2)
    opt = optim.SGD([{"params": [p], "lr": r} for p, r in zip((a, b), rates, strict=True)], foreach=False)
    clipper = clipwise.torch.attach(opt, clipwise.auto())
    weights = weights_norm(a, b)
    step(opt, 1e6, 1e6)
    expected = thresholds.auto().first * weights / max(float(r) for r in rates)
    assert float(clipper.report.threshold) == pytest.approx(expected, rel=1e-6)


class Doubled(nn.Module):
    def forward(self, weight):
        return 2.0 * weight


@pytest.mark.parametrize("kind", [nn.Embedding, nn.EmbeddingBag])
@pytest.mark.parametrize("parametrized", [False, True])
def test_auto_knows_an_embedding_whose_weight_is_computed(kind, parametrized):
    embedding, linear = kind(7, 4), nn.Linear(4, 3)
    if parametrized:
        parametrize.register_parametrization(embedding, "weight", Doubled())
    with torch.no_grad():
        next(embedding.parameters()).fill_(1000.0)  # would dominate
    model = nn.ModuleList([embedding, linear])
    opt = optim.SGD(model.parameters(), lr=0.1)
    clipper = clipwise.torch.attach(opt, clipwise.auto(), model=model)
    weights = weights_norm(*linear.parameters())
    for p in model.parameters():
        p.grad = torch.full_like(p, 1e6)
    opt.step()
    expected = thresholds.auto().first * weights / 0.1
    assert float(clipper.report.threshold) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda model: "model",
        lambda model: list(model.parameters()),
        lambda model: model.parameters(),
        lambda model: model.state_dict(),
        lambda model: type(model),
    ],
    ids=["a name", "parameters", "a generator", "a state", "a class"],
)
def test_a_model_that_is_none(wrong):
    model = make_model()
    opt, given = optim.SGD(model.parameters(), lr=0.1), wrong(model)
    kind = type(given).__name__
    with pytest.raises(ArgumentError, match=rf"model must be a torch\.nn\.Module.*\b{kind}"):
        clipwise.torch.attach(opt, clipwise.auto(), model=given)
    assert not opt._optimizer_step_pre_hooks
    with pytest.raises(ArgumentError, match=rf"model must be a torch\.nn\.Module.*\b{kind}"):
        clipwise.torch.Clipper(model.parameters(), clipwise.auto(), model=given)


@pytest.mark.parametrize("named", ["0.weight", "0.*"])
def test_one_in_the_place_of_another_has_its_name(named):
    """As a model that is sharded, or converted, after the clip was attached."""
    model = make_model()
    opt = optim.SGD(model.parameters(), lr=0.1)
    clip = clipwise.by_name({named: clipwise.Clip(thresholds.percentile(0.0, window=9), per="tensor")})
    clipper = clipwise.torch.attach(opt, clip, model=model)
    step(opt, 1.0, 1.0, 1.0, 1.0)
    old, new = model[0].weight, nn.Parameter(model[0].weight.detach().clone())
    model[0].weight = new
    opt.param_groups[0]["params"] = [new if p is old else p for p in opt.param_groups[0]["params"]]
    step(opt, 9.0, 1.0, 1.0, 1.0)
    assert sorted(clipper.report.names) == sorted(name for name, _ in model.named_parameters())
    assert new.grad.numpy() == pytest.approx(np.ones((8, 6)), rel=1e-6)  # by what it was before
