"""Units that do not lie along axis 0: what the user says, and what transposed convolutions say themselves."""

import copy
import io
import json
import math
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

import clipwise
from clipwise import Clip, adaptive_grad_clip, thresholds
from clipwise.errors import ArgumentError, ParameterError, StateError
from clipwise.torch import _slots
from tests.conformance.table.oracle import p_norm

pytestmark = pytest.mark.every_engine

SHAPE = (4, 6, 3, 2)
AXES = [0, 1, -1, 2, (0, 1), (0, 2), (3, 1), (0, -1), (1, 2, 3), (0, 1, 3), (0, 1, 2, 3), (), None]
NORMS = [2.0, 1.0, math.inf, "rms", 3.0]
TIGHT = 2e-7  # float32: measured in float64, rounded when it is stored


def units_of(array, axes, groups=1):
    """Index of each unit: masks over the array, in float64 numpy, by looking at every index."""
    axes = () if axes is None else np.atleast_1d(axes).astype(int) % array.ndim
    rows = array.shape[0] // groups
    found = {}
    for index in np.ndindex(array.shape):
        key = tuple(index[axis] for axis in axes)
        if groups > 1:
            key = (index[0] // rows, index[1])
        found.setdefault(key, []).append(index)
    return [tuple(np.array(indices).T) for indices in found.values()]


def expected(gradient, axes, threshold=None, norm=2.0, weight=None, ratio=None, groups=1):
    """Every unit clipped by itself, one after the other."""
    out = gradient.astype(np.complex128 if np.iscomplexobj(gradient) else np.float64)
    for unit in units_of(out, axes, groups):
        size = p_norm(out[unit], norm)
        limit = threshold if ratio is None else ratio * max(p_norm(weight[unit].astype(float), norm), 1e-3)
        if size > limit:
            out[unit] *= limit / size
    return out


def drawn(shape, seed=0, spread=True):
    rng = np.random.default_rng(seed)
    scale = np.exp(rng.normal(size=shape)) if spread else 1.0
    return rng.normal(size=shape) * scale


def laid(values, memory, dtype=torch.float32):
    """The same values in another order in memory."""
    tensor = torch.tensor(values, dtype=dtype)
    match memory:
        case "channels_last":
            return tensor.contiguous(memory_format=torch.channels_last)
        case "sliced":
            room = torch.full((*tensor.shape[:-1], 2 * tensor.shape[-1]), 7.0, dtype=dtype)
            room[..., ::2] = tensor
            return room[..., ::2]
        case "reversed":
            order = tuple(reversed(range(tensor.ndim)))
            return tensor.permute(order).contiguous().permute(order)
    return tensor


def given(values, gradient, memory="plain", dtype=torch.float32):
    made = nn.Parameter(torch.tensor(values, dtype=dtype))
    made.grad = laid(gradient, memory, dtype)
    return made


def close(found, wanted, tight=TIGHT):
    np.testing.assert_allclose(found.detach().numpy(), wanted, rtol=tight, atol=tight * 1e-3)


class TestWhatTheUserSays:
    @pytest.mark.parametrize("memory", ["plain", "channels_last", "sliced", "reversed"])
    @pytest.mark.parametrize("axes", AXES, ids=str)
    def test_every_axis_in_every_order_of_memory(self, axes, memory):
        gradient = drawn(SHAPE).astype(np.float32)
        p = given(np.zeros(SHAPE), gradient, memory)
        report = clipwise.torch.clip_([("w", p)], Clip(1.5, per="unit"), unit_axes={"w": axes})
        wanted = expected(gradient, axes, 1.5)
        close(p.grad, wanted)
        assert not np.array_equal(wanted, gradient)
        assert float(report.norm) == pytest.approx(np.linalg.norm(gradient.astype(float)), rel=1e-12)
        assert float(report.norm_after) == pytest.approx(np.linalg.norm(wanted), rel=1e-6)
        sizes = [np.linalg.norm(gradient.astype(float)[unit]) for unit in units_of(gradient, axes)]
        assert float(report.clip_fraction) == pytest.approx(np.mean(np.array(sizes) > 1.5))

    @pytest.mark.parametrize("norm", NORMS, ids=str)
    @pytest.mark.parametrize("axes", [1, (0, 2), None], ids=str)
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.complex64], ids=str)
    def test_every_norm_and_dtype(self, axes, norm, dtype):
        gradient = drawn(SHAPE)
        if dtype.is_complex:
            gradient = gradient + 1j * drawn(SHAPE, 1)
        p = given(np.zeros(SHAPE), gradient, dtype=dtype)
        gradient, threshold = p.grad.numpy().copy(), 0.4
        clipwise.torch.clip_([p], Clip(threshold, per="unit", norm=norm), unit_axes={"*": axes})
        tight = {torch.float64: 1e-12, torch.float16: 6e-4, torch.complex64: 5e-7}[dtype]
        np.testing.assert_allclose(
            p.grad.numpy(), expected(gradient, axes, threshold, norm), rtol=tight, atol=tight * 1e-2
        )

    @pytest.mark.parametrize(("one", "other"), [("plain", "channels_last"), ("reversed", "plain")])
    @pytest.mark.parametrize("axes", AXES, ids=str)
    def test_units_of_a_gradient_meet_those_of_their_weight(self, axes, one, other):
        weight, gradient = drawn(SHAPE, 1).astype(np.float32), drawn(SHAPE, 2).astype(np.float32)
        p = nn.Parameter(laid(weight, one))
        p.grad = laid(gradient, other)
        clipwise.torch.clip_([p], adaptive_grad_clip(0.1), unit_axes={"*": axes})
        wanted = expected(gradient, axes, weight=weight, ratio=0.1)
        close(p.grad, wanted)
        assert not np.array_equal(wanted, gradient)

    @pytest.mark.parametrize(("axes", "wanted"), [(0, [1.0, 1.0, 0.5]), (-1, [1.0, 1.0, 0.5]), (None, None)])
    def test_a_vector(self, axes, wanted):
        p = given([0.0] * 3, [3.0, 4.0, 0.5])
        clipwise.torch.clip_([p], Clip(1.0, per="unit"), unit_axes={"*": axes})
        close(p.grad, expected(np.array([3.0, 4.0, 0.5]), None, 1.0) if wanted is None else wanted)

    def test_the_first_pattern_wins_and_the_rest_stays_as_it_is(self):
        gradients = {name: drawn((5, 4), i) for i, name in enumerate(["a.w", "a.v", "b.w", "b.bias"])}
        pairs = [(name, given(np.zeros((5, 4)), g)) for name, g in gradients.items()]
        clipwise.torch.clip_(pairs, Clip(1.0, per="unit"), unit_axes={"a.v": None, "a.*": 1})
        for name, p in pairs:
            axes = {"a.w": 1, "a.v": None}.get(name, 0)
            close(p.grad, expected(gradients[name].astype(np.float32), axes, 1.0))

    def test_a_long_weight_goes_in_pieces(self):
        shape = (700, 3, 500)
        gradient = drawn(shape, spread=False).astype(np.float32)
        p = given(np.zeros(shape), gradient)
        clipwise.torch.clip_([p], Clip(26.0, per="unit"), unit_axes={"*": (1, 2)})
        sizes = np.sqrt((gradient.astype(float) ** 2).sum(0, keepdims=True))
        close(p.grad, gradient * np.minimum(1.0, 26.0 / sizes))
        assert not np.array_equal(p.grad.numpy(), gradient)

    def test_an_empty_weight_is_one_unit(self):
        p = given(np.zeros((0, 3, 2)), np.zeros((0, 3, 2)))
        q = given(np.zeros((2, 3, 2)), drawn((2, 3, 2)))
        both = [("p", p), ("q", q)]
        clipper = clipwise.torch.Clipper(
            both, Clip(thresholds.percentile(50, window=3), per="unit"), unit_axes={"*": (0, 1)}
        )
        clipper.clip_()
        assert clipper._plan.stage.thresholds.shape == (1 + 6,)


class TestEdges:
    def test_below_the_threshold_not_a_bit_changes_and_nothing_is_written(self, engine):
        p = given(np.zeros(SHAPE), drawn(SHAPE))
        before, version = p.grad.clone(), p.grad._version
        clipwise.torch.clip_([p], Clip(1e6, per="unit"), unit_axes={"*": 1})
        assert torch.equal(p.grad, before)
        if engine != "foreach":  # off the CPU asking would wait
            assert p.grad._version == version

    def test_autograd_hears_of_what_is_written(self):
        p = given(np.zeros(SHAPE), drawn(SHAPE))
        for axes in (1, (0, 2), None):
            version = p.grad._version
            clipwise.torch.clip_([p], Clip(1e-3 / (1 + version), per="unit"), unit_axes={"*": axes})
            assert p.grad._version > version

    def test_threshold_0_leaves_zeros(self):
        p = given(np.zeros(SHAPE), drawn(SHAPE))
        clipwise.torch.clip_([p], Clip(0.0, per="unit"), unit_axes={"*": (0, 2)})
        assert not p.grad.any()

    def test_squares_beyond_float32(self):
        gradient = np.full((2, 3, 2), 3e20, np.float32)
        p = given(np.zeros((2, 3, 2)), gradient)
        clipwise.torch.clip_([p], Clip(1.0, per="unit"), unit_axes={"*": 1})
        close(p.grad, np.full((2, 3, 2), 0.5))

    def test_bad_entries(self):
        gradient = drawn(SHAPE).astype(np.float32)
        gradient[1, 2, 0, 1] = math.nan
        p = given(np.zeros(SHAPE), gradient)
        assert clipwise.torch.clip_(
            [p], Clip(1.0, per="unit"), nonfinite="skip", unit_axes={"*": (0, 2)}
        ).skipped
        np.testing.assert_array_equal(p.grad.numpy(), gradient)
        clipwise.torch.clip_([p], Clip(1.0, per="unit"), nonfinite="zero", unit_axes={"*": (0, 2)})
        close(p.grad, expected(np.nan_to_num(gradient), (0, 2), 1.0))

    def test_missing_shared_and_expanded_gradients(self):
        p, q, r = (given(np.zeros(SHAPE), drawn(SHAPE, seed)) for seed in range(3))
        gradient = p.grad.numpy().copy()
        q.grad = None
        r.grad = torch.tensor(2.0).expand(SHAPE)
        clipwise.torch.clip_([p, q, p, r], Clip(1.5, per="unit"), unit_axes={"*": 1})
        close(p.grad, expected(gradient, 1, 1.5))
        close(r.grad, expected(np.full(SHAPE, 2.0), 1, 1.5))
        assert q.grad is None

    def test_data_that_was_exchanged_for_data_of_another_shape(self):
        p = given(np.zeros((4, 6)), drawn((4, 6)))
        clipper = clipwise.torch.Clipper([p], Clip(1.0, per="unit"), unit_axes={"*": 1})
        clipper.clip_()
        gradient = drawn((3, 8), 1).astype(np.float32)
        p.grad, p.data = None, torch.zeros(3, 8)
        p.grad = torch.tensor(gradient)
        clipper.clip_()
        close(p.grad, expected(gradient, 1, 1.0))

    def test_scaled_gradients_are_measured_without_their_scale(self):
        p = given(np.zeros((4, 6)), drawn((4, 6)))
        gradient = p.grad.numpy().copy()
        p.grad.mul_(1024.0)
        clipper = clipwise.torch.Clipper([p], Clip(1.0, per="unit"), unit_axes={"*": 1})
        clipper._step(torch.tensor(1024.0))
        close(p.grad / 1024.0, expected(gradient, 1, 1.0))

    @pytest.mark.parametrize("clip", [clipwise.clip_by_global_norm(1.0), "adagc", "clip_by_value(0.1)"])
    def test_other_clips_do_not_ask(self, clip, monkeypatch):
        monkeypatch.setattr(_slots, "_views", None)
        one, two = (given(drawn(SHAPE, 1), drawn(SHAPE)) for _ in range(2))
        clipwise.torch.Clipper([one], clip, unit_axes={"*": 1}).clip_()
        clipwise.torch.Clipper([two], clip).clip_()
        assert torch.equal(one.grad, two.grad)

    def test_no_second_batch_where_all_units_lie_along_axis_0(self, monkeypatch):
        def never(tensors):
            raise AssertionError

        monkeypatch.setattr("clipwise.torch._measure.make_batch", never)
        layer = nn.Linear(4, 3)
        layer(torch.ones(2, 4)).sum().backward()
        clipwise.torch.clip_(layer, Clip(0.1, per="unit"))
        clipwise.torch.clip_(layer, Clip(0.1, per="unit"), unit_axes={"weight": 0, "bias": None})


TRANSPOSED = {
    "1d": lambda: nn.ConvTranspose1d(4, 6, 3),
    "2d": lambda: nn.ConvTranspose2d(4, 6, (3, 2), stride=2),
    "3d": lambda: nn.ConvTranspose3d(2, 3, 2),
    "groups": lambda: nn.ConvTranspose2d(4, 6, 3, groups=2),
    "depthwise": lambda: nn.ConvTranspose2d(4, 8, 3, groups=4),
    "lazy": lambda: nn.LazyConvTranspose2d(6, 3, groups=2),
}


def transposed(kind, seed=0):
    torch.manual_seed(seed)
    layer = TRANSPOSED[kind]()
    given = torch.randn({"1d": (2, 4, 5), "3d": (2, 2, 5, 5, 5)}.get(kind, (2, 4, 5, 5)))
    layer(given)
    return layer, given


def fill(layer, seed=3, size=1.0):
    """Gradients of our own for all parameters; returns them by name, before the clip."""
    found = {}
    for place, (name, p) in enumerate(layer.named_parameters()):
        p.grad = torch.tensor(drawn(p.shape, seed + place) * size, dtype=p.dtype)
        found[name] = p.grad.numpy().copy()
    return found


@pytest.mark.parametrize("kind", TRANSPOSED)
class TestTransposedConvolutions:
    def test_a_unit_is_what_makes_one_channel_of_the_output(self, kind):
        """Not by shapes: by which weights a channel of the output depends on."""
        layer, inputs = transposed(kind)
        masks = []
        for channel in range(layer.out_channels):
            (found,) = torch.autograd.grad(layer(inputs)[:, channel].square().sum(), layer.weight)
            masks.append(found != 0)
        assert torch.stack(masks).sum(0).eq(1).all()  # every weight belongs to one channel
        gradient = fill(layer)["weight"].astype(float)
        clipwise.torch.clip_(layer, Clip(1.5, per="unit"))
        for mask in masks:
            unit = gradient[mask.numpy()]
            close(layer.weight.grad[mask], unit * min(1.0, 1.5 / np.linalg.norm(unit)))

    @pytest.mark.parametrize("clip", [adaptive_grad_clip(0.5), Clip(1.5, per="unit")], ids=["agc", "unit"])
    def test_every_way_in(self, kind, clip):
        layer, _ = transposed(kind)
        groups = layer.groups
        weight, limits = layer.weight.detach().numpy().copy(), {"threshold": 1.5}
        if clip == adaptive_grad_clip(0.5):
            limits = {"weight": weight, "ratio": 0.5}
        model = nn.Sequential(layer, nn.Conv2d(2, 3, 1))

        def attached():
            optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
            with clipwise.torch.attach(optimizer, clip, model=model):
                optimizer.step()

        ways = {
            "clip_": lambda: clipwise.torch.clip_(model, clip),
            "Clipper": lambda: clipwise.torch.Clipper(model, clip).clip_(),
            "model=": lambda: clipwise.torch.Clipper(model.parameters(), clip, model=model).clip_(),
            "attach": attached,
        }
        for name, act in ways.items():
            gradient = fill(model)["0.weight"]
            plain = model[1].weight.grad.numpy().copy()
            act()
            wanted = expected(gradient, 1, groups=groups, **limits)
            assert not np.array_equal(wanted, gradient), name
            close(layer.weight.grad, wanted)
            if "threshold" in limits:
                close(model[1].weight.grad, expected(plain, 0, 1.5))

    def test_the_weights_themselves(self, kind):
        layer, _ = transposed(kind)
        fill(layer)
        optimizer = torch.optim.SGD(layer.parameters(), lr=0.5)
        bound = Clip(0.3, per="unit")
        clipper = clipwise.torch.attach(optimizer, weights=bound, model=layer)
        before = [p.detach().numpy() - np.float32(0.5) * p.grad.numpy() for p in layer.parameters()]
        optimizer.step()
        close(layer.weight, expected(before[0], 1, 0.3, groups=layer.groups))
        close(layer.bias, expected(before[1], None, 0.3))
        assert 0 < float(clipper.weights.report.clip_fraction) <= 1

    def test_the_user_knows_better(self, kind):
        layer, _ = transposed(kind)
        for axes in (0, None, (0, 1)):
            gradient = fill(layer)["weight"]
            clipwise.torch.clip_(layer, Clip(1.5, per="unit"), unit_axes={"weight": axes})
            close(layer.weight.grad, expected(gradient, axes, 1.5))

    def test_without_the_model_nobody_knows(self, kind):
        layer, _ = transposed(kind)
        gradient = fill(layer)["weight"]
        clipwise.torch.clip_(layer.parameters(), Clip(1.5, per="unit"))
        close(layer.weight.grad, expected(gradient, 0, 1.5))


class TestModels:
    @pytest.mark.parametrize("wrap", ["spectral_norm", "weight_norm", "orthogonal"])
    def test_parametrized_weights(self, wrap):
        torch.manual_seed(0)
        layer = nn.ConvTranspose2d(4, 3, 2)
        getattr(nn.utils.parametrizations, wrap)(layer)
        gradients = fill(layer)
        clipwise.torch.clip_(layer, Clip(1.5, per="unit"))
        checked = 0
        for name, p in layer.named_parameters():
            axes = None if p.ndim == 1 else 1 if p.shape == (4, 3, 2, 2) else 0
            checked += axes == 1
            close(p.grad, expected(gradients[name], axes, 1.5))
        assert checked == 1

    @pytest.mark.parametrize("first", [nn.Conv2d, nn.ConvTranspose2d])
    def test_of_tied_weights_the_first_layer_decides(self, first):
        second = nn.ConvTranspose2d if first is nn.Conv2d else nn.Conv2d
        model = nn.Sequential(first(3, 3, 2, bias=False), second(3, 3, 2, bias=False))
        model[1].weight = model[0].weight
        gradient = fill(model)["0.weight"]
        clipwise.torch.clip_(model, Clip(1.0, per="unit"))
        close(model[0].weight.grad, expected(gradient, 0 if first is nn.Conv2d else 1, 1.0))

    def test_by_name_and_chain(self):
        model = nn.Sequential(nn.ConvTranspose2d(4, 3, 2), nn.Conv2d(3, 4, 2), nn.Linear(4, 2))
        gradients = fill(model)
        clip = clipwise.by_name(
            {
                "1.*": clipwise.clip_by_norm(0.5),
                "*": clipwise.chain(Clip(1.5, per="unit"), Clip(1.0, per="unit", norm=1.0)),
            }
        )
        report = clipwise.torch.clip_(model, clip, unit_axes={"2.weight": 1})
        for name, p in model.named_parameters():
            if name.startswith("1."):
                wanted = gradients[name] * min(1.0, 0.5 / np.linalg.norm(gradients[name]))
            else:
                axes = None if p.ndim == 1 else 1
                wanted = expected(expected(gradients[name], axes, 1.5), axes, 1.0, norm=1.0)
            close(p.grad, wanted, 4e-7)
        after = np.linalg.norm(np.concatenate([p.grad.flatten().numpy() for p in model.parameters()]))
        assert float(report.norm_after) == pytest.approx(after, rel=1e-6)

    def test_a_chain_measures_again_by_unit_after_a_clip_of_everything(self):
        p = given(np.zeros(SHAPE), drawn(SHAPE))
        gradient = p.grad.numpy().astype(float)
        clip = clipwise.chain(
            clipwise.clip_by_value(2.0), clipwise.clip_by_global_norm(9.0), Clip(1.0, per="unit")
        )
        clipwise.torch.clip_([p], clip, unit_axes={"*": (0, 2)})
        gradient = np.clip(gradient, -2.0, 2.0)
        gradient *= min(1.0, 9.0 / np.linalg.norm(gradient))
        close(p.grad, expected(gradient, (0, 2), 1.0), 4e-7)


WINDOW = Clip(thresholds.percentile(50, window=4), per="unit")


def net(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.ConvTranspose2d(4, 6, 2, groups=2), nn.Conv2d(6, 3, 2), nn.ConvTranspose2d(3, 5, 1)
    )


def remembered(clipper, model, steps, start=0):
    for step in range(start, start + steps):
        fill(model, 10 * step, size=1.0 + step % 3)
        clipper.clip_()
    return [p.grad.clone() for p in model.parameters()]


class TestMemory:
    def test_each_unit_has_its_own_history(self):
        layer = nn.ConvTranspose2d(2, 3, 2, bias=False)
        clipper = clipwise.torch.Clipper(layer, WINDOW)
        seen = []
        for step in range(6):
            gradient = fill(layer, step)["weight"].astype(float)
            seen.append(np.sqrt((gradient**2).sum((0, 2, 3))))
            clipper.clip_()
        # The norm of the step itself counts, the last four are kept.
        limits = np.percentile(np.array(seen[-4:]), 50, axis=0, method="linear")
        factors = np.minimum(1.0, limits / seen[-1])
        close(layer.weight.grad, gradient * factors[None, :, None, None])

    def test_saved_and_loaded(self):
        model = net()
        whole = remembered(clipwise.torch.Clipper(model, WINDOW), model, 8)
        first, second = (clipwise.torch.Clipper(model, WINDOW) for _ in range(2))
        remembered(first, model, 5)
        file = io.BytesIO()
        torch.save(first.state_dict(), file)
        file.seek(0)
        second.load_state_dict(torch.load(file, weights_only=True))
        for one, other in zip(remembered(second, model, 3, start=5), whole, strict=True):
            assert torch.equal(one, other)

    def test_a_state_of_other_units_is_refused(self):
        model = net()
        state = clipwise.torch.Clipper(model, WINDOW).state_dict()
        with pytest.raises(StateError, match="does not fit"):
            clipwise.torch.Clipper(model, WINDOW, unit_axes={"0.weight": None}).load_state_dict(state)

    @pytest.mark.parametrize("by", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))])
    def test_a_copy_knows_the_units_of_its_own_parameters(self, by):
        model = net()
        clipper = clipwise.torch.Clipper(model, adaptive_grad_clip(0.3), unit_axes={"1.weight": (0, 2)})
        fill(model)
        other, twin = by((model, clipper))
        clipper.clip_()
        del model, clipper
        gradients = fill(other)
        twin.clip_()
        for name, axes, groups in (("0.weight", 1, 2), ("1.weight", (0, 2), 1), ("2.weight", 1, 1)):
            p = other.get_parameter(name)
            weight = p.detach().numpy()
            close(p.grad, expected(gradients[name], axes, weight=weight, ratio=0.3, groups=groups))

    def test_parameters_that_come_later_and_go(self):
        model, extra = net(), nn.ParameterDict({"w": torch.zeros(3, 4), "table": torch.zeros(5, 2)})
        optimizer = torch.optim.SGD(model[1].parameters(), lr=0.0)
        model.extend([extra])
        clip, axes = Clip(thresholds.mean(0.5), per="unit"), {"1.weight": 1, "3.*": None}
        clipper = clipwise.torch.attach(
            optimizer, clip, model=model, unit_axes={"1.weight": 1, "*.weight": 0}
        )
        clipper.detach()
        # A pattern must match something when it is given, but not each of the later parameters.
        with pytest.raises(ParameterError, match=r"'3\.\*' matches no parameter"):
            clipwise.torch.attach(optimizer, clip, model=model, unit_axes=axes)
        clipper = clipwise.torch.attach(optimizer, clip, model=model, unit_axes={"1.*t": 1, "*.weight": 1})
        seen = {}

        def step(seed):
            gradients = fill(model, seed, size=1 + seed)
            optimizer.step()
            for name, gradient in gradients.items():
                seen.setdefault(name, []).append(gradient)
            return gradients

        step(0)
        optimizer.add_param_group({"params": [*model[0].parameters(), *extra.parameters()]})
        step(1)
        assert clipper._plan.stage.thresholds.shape == (
            6 + 1 + 3 + 1 + 3 + 5,
        )  # `*.weight` was said of it: axis 1
        optimizer.param_groups[0]["params"].pop(0)
        step(2)
        assert "1.weight" not in clipper.parameters
        assert clipper._plan.stage.thresholds.shape == (1 + 3 + 1 + 3 + 5,)
        assert "1.weight" not in [slot.name for slot in clipper._slots]

    def test_a_transposed_convolution_that_comes_later(self):
        model = net()
        optimizer = torch.optim.SGD(model[1].parameters(), lr=0.0)
        clipper = clipwise.torch.attach(
            optimizer,
            Clip(1.0, per="unit"),
            weights=Clip(9.0, per="unit"),
            model=model,
            unit_axes={"1.weight": 1},
        )
        optimizer.add_param_group({"params": list(model[0].parameters())})
        gradients = fill(model)
        optimizer.step()
        close(model[0].weight.grad, expected(gradients["0.weight"], 1, 1.0, groups=2))
        close(model[1].weight.grad, expected(gradients["1.weight"], 1, 1.0))
        np.testing.assert_array_equal(model[2].weight.grad.numpy(), gradients["2.weight"])
        assert {slot.name: slot.units for slot in clipper.weights._slots}["0.weight"] == 6


def sparse_rows(rows, values, shape=(5, 3)):
    return torch.sparse_coo_tensor([rows], torch.tensor(values), shape, check_invariants=True)


class TestSparse:
    def test_a_whole_table_as_one_unit(self):
        p = nn.Parameter(torch.zeros(5, 3))
        p.grad = sparse_rows([3, 1, 3], [[1.0, 2.0, 2.0], [0.0, 3.0, 4.0], [1.0, 0.0, 0.0]])
        dense = p.grad.to_dense().numpy()
        clipwise.torch.clip_([p], Clip(1.0, per="unit"), unit_axes={"*": None})
        assert p.grad.is_sparse
        close(p.grad.to_dense(), expected(dense, None, 1.0))

    def test_without_a_row_it_is_still_one_unit(self):
        p = nn.Parameter(torch.zeros(5, 3))
        p.grad = torch.sparse_coo_tensor(torch.zeros(1, 0, dtype=torch.int64), torch.zeros(0, 3), (5, 3))
        q = given(np.zeros((2, 2)), [[3.0, 4.0], [0.0, 0.5]])
        clip = Clip(1.0, per="unit")
        clipwise.torch.clip_([p, q], clip, unit_axes={"0": None, "1": 1})
        close(q.grad, expected(np.array([[3.0, 4.0], [0.0, 0.5]]), 1, 1.0))

    def test_rows_beside_others(self):
        p = nn.Parameter(torch.zeros(5, 3))
        p.grad = sparse_rows([3, 1], [[1.0, 2.0, 2.0], [0.0, 3.0, 4.0]])
        q = given(np.zeros((2, 2)), [[3.0, 4.0], [0.0, 0.5]])
        dense = p.grad.to_dense().numpy()
        clipwise.torch.clip_([p, q], Clip(1.0, per="unit"), unit_axes={"0": 0, "1": 1})
        close(p.grad.to_dense(), expected(dense, 0, 1.0))
        close(q.grad, expected(np.array([[3.0, 4.0], [0.0, 0.5]]), 1, 1.0))

    @pytest.mark.parametrize("axes", [1, (0, 1)])
    def test_other_axes_are_refused_before_anything_is_touched(self, axes):
        q = given(np.zeros((2, 2)), [[3.0, 4.0], [0.0, 0.5]])
        p = nn.Parameter(torch.zeros(5, 3))
        p.grad = sparse_rows([3], [[1.0, 2.0, 2.0]])
        clip = clipwise.chain(clipwise.clip_by_value(0.1), Clip(1.0, per="unit"))
        with pytest.raises(ParameterError, match=r"sparse gradient has its units along axis 0.*\(5, 3\)"):
            clipwise.torch.clip_([q, p], clip, unit_axes={"1": axes})
        assert q.grad.max() == 4.0
        clipwise.torch.clip_([q, p], clipwise.clip_by_value(0.1), unit_axes={"1": axes})  # nobody asks


class TestRefusals:
    @pytest.mark.parametrize("axis", [2, -3, True, "0", 1.0, (0, 5)], ids=repr)
    def test_an_axis_that_is_none(self, axis):
        p = given(np.zeros((2, 2)), [[3.0, 4.0], [0.0, 0.5]])
        axes = (axis,) if isinstance(axis, float) else axis
        with pytest.raises(ArgumentError, match=r"unit_axes: 'w' says .* 'w' of shape \(2, 2\) has no axis"):
            clipwise.torch.clip_([("w", p)], Clip(1.0, per="unit"), unit_axes={"w": axes})
        assert p.grad[0, 0] == 3.0

    def test_a_pattern_that_matches_nothing(self):
        optimizer = torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1)
        with pytest.raises(ParameterError, match=r"unit_axes: the pattern 'conv\*' matches no parameter"):
            clipwise.torch.attach(optimizer, Clip(1.0, per="unit"), unit_axes={"conv*": 1})
        clipwise.torch.attach(optimizer, Clip(1.0, per="unit")).detach()  # nothing was attached before

    @pytest.mark.parametrize("said", [1, "*", [("*", 1)]], ids=repr)
    def test_what_is_no_mapping(self, said):
        with pytest.raises(ArgumentError, match="unit_axes must map patterns"):
            clipwise.torch.clip_([given([0.0], [1.0])], Clip(1.0, per="unit"), unit_axes=said)


ELSEWHERE = """
import json, sys
import jax, keras, numpy as np
import clipwise, clipwise.jax, clipwise.keras
keras.config.set_floatx("float64")
case = json.load(sys.stdin)
kernel, gradient, inputs = (np.array(case[name]) for name in ("kernel", "gradient", "inputs"))
found = {}
for clip in case["clips"]:
    layer = keras.layers.Conv2DTranspose(kernel.shape[2], kernel.shape[:2], use_bias=False)
    model = keras.Sequential([keras.Input(inputs.shape[1:]), layer])
    layer.kernel.assign(kernel)
    outputs = np.array(model(inputs))
    optimizer = clipwise.keras.attach(keras.optimizers.SGD(1.0), clip, model=model)
    optimizer.apply([keras.ops.convert_to_tensor(gradient)], [layer.kernel])
    in_keras = kernel - np.array(layer.kernel)
    laid = {"kernel": gradient}
    axes = {"kernel": 2}
    in_jax, _, _ = clipwise.jax.clip(clip, laid, params={"kernel": kernel}, unit_axes=axes)
    found[clip] = {"keras": in_keras.tolist(), "jax": np.array(in_jax["kernel"]).tolist()}
json.dump({"found": found, "outputs": outputs.tolist()}, sys.stdout)
"""
CLIPS = ["adaptive_grad_clip(0.01)", "clip(1.0, per=unit)"]
HERE, THERE = (3, 2, 0, 1), (2, 3, 1, 0)  # (h, w, out, in) and (in, out, h, w), either way


@pytest.fixture(scope="module")
def elsewhere():
    """A transposed convolution in Keras, in a process of its own, with these weights and gradients."""
    pytest.importorskip("keras")
    pytest.importorskip("jax")
    case = {
        "kernel": drawn((3, 2, 5, 4), 7).tolist(),
        "gradient": drawn((3, 2, 5, 4), 8).tolist(),
        "inputs": drawn((2, 6, 6, 4), 9, spread=False).tolist(),
        "clips": CLIPS,
    }
    settings = os.environ | {"KERAS_BACKEND": "jax", "JAX_ENABLE_X64": "1", "JAX_PLATFORMS": "cpu"}
    run = subprocess.run(
        [sys.executable, "-c", ELSEWHERE],
        input=json.dumps(case),
        capture_output=True,
        text=True,
        check=False,
        env=settings,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr
    return {name: np.array(case[name]) for name in ("kernel", "gradient", "inputs")} | json.loads(run.stdout)


@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_the_same_weights_in_keras_and_jax(elsewhere, clip, dtype):
    layer = nn.ConvTranspose2d(4, 5, (3, 2), bias=False, dtype=dtype)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(elsewhere["kernel"].transpose(HERE)))
        # Keras lays the kernel out like this: otherwise the outputs would differ.
        outputs = layer(torch.tensor(elsewhere["inputs"], dtype=dtype).permute(0, 3, 1, 2))
    np.testing.assert_allclose(
        outputs.permute(0, 2, 3, 1), np.array(elsewhere["outputs"]), rtol=1e-4, atol=1e-4
    )
    layer.weight.grad = torch.tensor(elsewhere["gradient"].transpose(HERE), dtype=dtype)
    clipwise.torch.clip_(layer, clip)
    found = layer.weight.grad.numpy().transpose(THERE)
    for framework in ("keras", "jax"):
        np.testing.assert_allclose(
            found, np.array(elsewhere["found"][clip][framework]), rtol=1e-6, atol=1e-12
        )
    assert not np.allclose(found, elsewhere["gradient"])


def test_the_layers_of_gpt2_are_known(engine):
    """`Conv1D` of transformers is a linear layer whose weight is (in, out)."""
    from transformers.pytorch_utils import Conv1D

    torch.manual_seed(0)
    layer, twin = Conv1D(5, 3), nn.Linear(3, 5)
    with torch.no_grad():
        twin.weight.copy_(layer.weight.T)
        twin.bias.copy_(layer.bias)
    for one in (layer, twin):
        one(torch.arange(6.0).reshape(2, 3)).square().sum().backward()
        clipwise.torch.clip_(one, clipwise.Clip(1e-5, per="unit"))
    assert torch.allclose(layer.weight.grad.T, twin.weight.grad, rtol=1e-6)
    assert torch.allclose(layer.weight.grad.norm(dim=0), torch.full((5,), 1e-5), rtol=1e-5)
