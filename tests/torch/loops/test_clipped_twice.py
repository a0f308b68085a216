"""The loop or the trainer clips too: said once, with both thresholds; and nothing stays behind."""

import gc
import math
import warnings

import pytest
import torch
from torch.nn import utils
from torch.nn.utils import clip_grad, clip_grad_norm_

import clipwise
from clipwise.torch import _foreign_clipping
from tests.torch.loops.reference_loops import THRESHOLD, backward, make_model

CLIP = clipwise.clip_by_global_norm(THRESHOLD)
NAMES = [
    (module, name)
    for module in (utils, clip_grad)
    for name in (
        "clip_grad_norm_",
        "clip_grad_value_",
        "clip_grads_with_norm_",
        "get_total_norm",
        "_clip_grads_with_norm_",
        "_get_total_norm",
    )
    if hasattr(module, name)
]


ORIGINALS = [getattr(module, name) for module, name in NAMES]


def exchanged() -> list[str]:
    return [
        f"{m.__name__}.{name}"
        for (m, name), was in zip(NAMES, ORIGINALS, strict=True)
        if getattr(m, name) is not was
    ]


@pytest.fixture(autouse=True, scope="module")
def nobody_listens():
    """Not the clippers that other tests left attached either."""
    clipwise.torch.attach(torch.optim.SGD(make_model().parameters(), lr=0.1), CLIP)
    for listener in list(_foreign_clipping._listeners):
        listener.detach()


@pytest.fixture(autouse=True)
def nothing_stays_behind():
    assert exchanged() == []
    yield
    assert exchanged() == []


def set_up():
    model = make_model()
    opt = torch.optim.SGD(model.parameters(), lr=0.1)
    return model, opt


WAYS = {
    "looked up": lambda p: utils.clip_grad_norm_(p, 0.7),
    "looked up in its module": lambda p: clip_grad.clip_grad_norm_(p, max_norm=0.7),
    "imported by name": lambda p: clip_grad_norm_(p, 0.7),
    "by value": lambda p: utils.clip_grad_value_(p, 0.7),
    "by value, by keyword": lambda p: utils.clip_grad_value_(p, clip_value=0.7),
    "in two": lambda p: utils.clip_grads_with_norm_(p, 0.7, torch.tensor(1.0)),
    "ours": lambda p: clipwise.torch.clip_grad_norm_(p, 0.7),
    "ours by value": lambda p: clipwise.torch.clip_grad_value_(p, 0.7),
}


@pytest.mark.parametrize("patched", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_a_warning_once_with_both_thresholds(way, patched):
    model, opt = set_up()
    patch = clipwise.torch.patch() if patched else None
    with clipwise.torch.attach(opt, CLIP) as clipper:
        for step in range(3):
            backward(model, step)
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                WAYS[way](model.parameters())
            opt.step()
            assert len(caught) == (1 if step == 0 else 0)
            for warning in caught:
                assert "clips too" in str(warning.message)
                assert "to 0.7" in str(warning.message)
                assert f"clip_by_global_norm({THRESHOLD})" in str(warning.message)
    assert clipper.steps == 3
    if patch:
        patch.undo()


@pytest.mark.parametrize("way", ["looked up", "by value"])
@pytest.mark.parametrize("what", ["generator", "list", "one tensor", "the last of many"])
def test_whatever_the_parameters_come_in(way, what):
    model, opt = set_up()
    other = make_model(1)
    backward(other, 2)
    with clipwise.torch.attach(opt, CLIP):
        backward(model, 2)
        tensors = {
            "generator": lambda: (p for p in model.parameters()),
            "list": lambda: list(model.parameters()),
            "one tensor": lambda: model[0].weight,
            "the last of many": lambda: [*other.parameters(), model[2].bias],
        }[what]()
        with pytest.warns(UserWarning, match="the loop clips too"):
            WAYS[way](tensors)


def test_what_is_no_second_clipping_is_not_told():
    """Measuring with a threshold of inf; other parameters; and parameters without a gradient."""
    model, opt = set_up()
    other = make_model(1)
    with clipwise.torch.attach(opt, CLIP), warnings.catch_warnings():
        warnings.simplefilter("error")
        utils.clip_grad_norm_(model.parameters(), 0.7)
        backward(model, 2)
        backward(other, 2)
        utils.clip_grad_norm_(model.parameters(), math.inf)
        utils.clip_grad_value_(model.parameters(), float("inf"))
        utils.get_total_norm([p.grad for p in model.parameters()])
        for clips in WAYS.values():
            clips(other.parameters())


def test_what_torch_does_is_what_it_did():
    model, opt = set_up()
    reference = make_model()
    for m in (model, reference):
        backward(m, 2)
    expected = utils.clip_grad_norm_(reference.parameters(), 0.01, norm_type=math.inf)
    with clipwise.torch.attach(opt, CLIP), pytest.warns(UserWarning, match="the loop clips too"):
        found = utils.clip_grad_norm_(model.parameters(), 0.01, norm_type=math.inf)
    assert torch.equal(found, expected)
    for p, q in zip(model.parameters(), reference.parameters(), strict=True):
        assert torch.equal(p.grad, q.grad)


def test_the_warning_points_to_the_loop():
    model, opt = set_up()
    with clipwise.torch.attach(opt, CLIP):
        backward(model, 2)
        with pytest.warns(UserWarning, match="the loop clips too") as caught:
            utils.clip_grad_value_(model.parameters(), 0.7)
        assert caught[0].filename == __file__


def test_two_clippers_each_tell_of_their_own():
    (a, opt_a), (b, opt_b) = set_up(), set_up()
    first = clipwise.torch.attach(opt_a, clipwise.clip_by_norm(0.25))
    second = clipwise.torch.attach(opt_b, clipwise.clip_by_norm(0.75))
    backward(a, 2)
    backward(b, 2)
    with pytest.warns(UserWarning, match=r"clip_by_norm\(0.75\)"):
        utils.clip_grad_norm_(b.parameters(), 0.7)
    second.detach()
    with pytest.warns(UserWarning, match=r"clip_by_norm\(0.25\)"):
        utils.clip_grad_norm_(a.parameters(), 0.7)
    first.detach()


def test_one_that_was_forgotten_is_no_hindrance():
    model, opt = set_up()
    clipwise.torch.attach(opt, CLIP)
    del opt
    gc.collect()
    backward(model, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        utils.clip_grad_norm_(model.parameters(), 0.7)
    clipwise.torch.attach(torch.optim.SGD(model.parameters(), lr=0.1), CLIP).detach()
