"""Every public object through pickle, cloudpickle, copy, deepcopy, torch.save and a process of its own."""

import copy
import io
import multiprocessing
import pickle

import cloudpickle
import pytest
import torch
from torch import nn

import clipwise
import clipwise.torch as ours
from clipwise.errors import NonFiniteError, ParameterError, ThresholdError
from tests.depth import thorough


def saved(values):
    file = io.BytesIO()
    torch.save(values, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def there_and_back(values):
    """Into a process that was started anew, and out of it again; as bytes, so that no memory is shared."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pickle.loads(pool.apply(again, (pickle.dumps(values),)))


def again(data):
    return pickle.dumps(pickle.loads(data))


WAYS = {
    "pickle": lambda values: pickle.loads(pickle.dumps(values)),
    "cloudpickle": lambda values: cloudpickle.loads(cloudpickle.dumps(values)),
    "copy": lambda values: [copy.copy(value) for value in values],
    "deepcopy": copy.deepcopy,
    "torch.save": saved,
    "spawn": there_and_back,
}


@pytest.fixture(params=[pytest.param(name, marks=thorough if name == "spawn" else ()) for name in WAYS])
def copied(request):
    return WAYS[request.param]


def make_model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))


def give_gradients(parameters, size):
    for p in parameters:
        p.grad = torch.full_like(p, size)


def figures(report):
    return [float(value) for value in (report.norm, report.norm_after, report.threshold)]


def test_clips(copied):
    clips = [
        clipwise.clip_by_value(low=-1.0, high=2.0),
        clipwise.chain(clipwise.by_name({"a": clipwise.adagc(), "*": None}), clipwise.auto()),
        clipwise.zclip(),
        clipwise.Clip(clipwise.thresholds.cosine(1.0, 0.1, 10), per="unit"),
    ]
    assert copied(clips) == clips


def test_a_clipper_goes_on_by_itself(copied):
    clipper = ours.Clipper(make_model(), clipwise.autoclip(50))
    for size in (1.0, 2.0, 3.0):
        give_gradients(clipper.parameters.values(), size)
        clipper.clip_()
    (twin,) = copied([clipper])
    give_gradients(clipper.parameters.values(), 4.0)
    give_gradients(twin.parameters.values(), 4.0)
    expected = figures(twin.clip_())
    assert (twin.steps, clipper.steps) == (4, 3)
    give_gradients(clipper.parameters.values(), 4.0)
    assert figures(clipper.clip_()) == expected  # it has seen nothing of the twin's step


def test_what_is_attached_is_recorded_and_stays_attached(copied):
    model = make_model()
    opt = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    clipper = ours.attach(opt, clipwise.autoclip(50), model=model, weights=clipwise.clip_by_value(1.0))
    give_gradients(model.parameters(), 1.0)
    opt.step()
    twin_opt, twin, weights = copied([opt, clipper, clipper.weights])
    assert (twin.steps, weights.steps, figures(twin.report)) == (1, 1, figures(clipper.report))
    assert not twin_opt._optimizer_step_pre_hooks
    assert twin_opt.param_groups[0]["momentum"] == 0.9
    twin.detach()
    give_gradients(model.parameters(), 2.0)
    opt.step()
    assert (clipper.steps, clipper.weights.steps) == (2, 2)
    assert (twin.steps, twin.weights.steps, weights.steps) == (1, 1, 1)
    again = ours.attach(twin_opt, clipwise.clip_by_global_norm(1.0))
    give_gradients([p for group in twin_opt.param_groups for p in group["params"]], 3.0)
    if twin_opt.param_groups[0]["params"][0] is not model[0].weight:
        twin_opt.step()
        assert (again.steps, clipper.steps) == (1, 2)
    again.detach()


def test_reports_functions_and_errors(copied):
    weights = ours.WeightClipper([nn.Parameter(torch.tensor([0.5, 0.0]))], clipwise.clip_by_value(0.01))
    weights.clip_()
    (report,) = copied([weights.report])
    assert (float(report.at_bound), figures(report)) == (0.5, figures(weights.report))
    functions = [getattr(ours, name) for name in ours.__all__]
    assert copied(functions) == functions
    errors = [NonFiniteError("a"), ParameterError("b"), ThresholdError("c")]
    assert list(map(repr, copied(errors))) == list(map(repr, errors))


def test_modules(copied):
    x = torch.linspace(-3.0, 3.0, 8).reshape(2, 4)
    modules = [ours.PACT(2.5), ours.ClippedReLU(2.5), ours.HardTanh(-2.0, 3.0), ours.SoftCap(3.0)]
    modules += [ours.ClampedSwiGLU(2.0), ours.ClipValues([-1.0, None, 0.0, 0.5], 2.0)]
    for twin, module in zip(copied(modules), modules, strict=True):
        assert torch.equal(twin(x), module(x))
    attention = ours.QKClip(nn.MultiheadAttention(8, 2), tau=1.0)
    attention.observe_logits(torch.tensor([4.0, 0.5]))
    (twin,) = copied([attention])
    assert twin.step_().tolist() == [0.25, 1.0]
    assert attention.largest.tolist() == [4.0, 0.5]


def test_wrapped_activations(copied):
    model = make_model()
    clipped = ours.clip_activations(model, {"1": 0.25})
    x = torch.ones(1, 3)
    expected = model(x)
    (kept,) = copied([(model, clipped)])
    twin, of_twin = kept
    assert torch.equal(twin(x), expected)
    assert of_twin.report()["1"].entries == 8
    del model, twin, kept
    (record,) = copied([clipped])  # of a model that has gone
    assert record.names == ("1",)


@pytest.mark.parametrize("way", [pickle.dumps, cloudpickle.dumps, copy.copy, copy.deepcopy])
def test_a_patch_says_why_not(way):
    with (
        ours.patch() as patch,
        pytest.raises(TypeError, match=r"call clipwise\.torch\.patch\(\) where it is"),
    ):
        way(patch)
