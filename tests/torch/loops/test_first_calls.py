"""A clip that is called where there is nothing to clip says so once: in wrong orders, and in no right one."""

import warnings

import pytest
import torch
from torch.optim import optimizer as torchs

import clipwise
from clipwise.torch import Clipper, _first_calls
from tests.monitor.observe.test_own_clips import Loop

CLIP = clipwise.clip_by_global_norm(0.1)


class OurLoop(Loop):
    """The same with clips of ours."""

    def __init__(self, kind: str, **options) -> None:
        super().__init__(**options)
        self.kind, self.clipper = kind, Clipper(self.model, CLIP)

    def clip(self):
        parameters = list(self.model.parameters())
        if self.kind == "Clipper":
            self.clipper.clip_()
        elif self.kind == "clip_":
            clipwise.torch.clip_(parameters, CLIP)
        else:
            getattr(clipwise.torch, self.kind)(parameters, 0.1)

    def measure(self):
        clipwise.torch.clip_grad_norm_(self.model.parameters(), float("inf"))

    def of_another(self):
        clipwise.torch.clip_grad_norm_(self.other.parameters(), 0.1)

    def of_none(self):
        clipwise.torch.clip_grad_norm_(self.used_up, 0.1)


RIGHT = (
    *("zero backward clip step", "backward clip step zero", "zero backward backward clip step"),
    *("zero backward clip backward clip step", "zero by_hand clip step", "zero backward second clip step"),
    *("zero backward unscale clip step", "zero backward clip step measure"),
)
WRONG = (
    *("zero backward step clip", "zero clip backward step", "backward step zero clip"),
    *("zero backward backward step clip", "zero backward unscale step clip", "zero by_hand step clip"),
)


def said(kind: str, order: str, steps: int = 16, **options) -> list[str]:
    _first_calls._of_functions.clear()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        OurLoop(kind, scaled="unscale" in order, **options).run(order, steps)
    return [str(one.message) for one in caught if "clips nothing" in str(one.message)]


@pytest.mark.parametrize("kind", ["Clipper", "clip_", "clip_grad_norm_", "clip_grad_value_"])
def test_in_every_order(kind):
    hooks = len(torchs._global_optimizer_post_hooks)
    for keeps in (False, True):
        counts = {order: len(said(kind, order, keeps=keeps)) for order in (*RIGHT, *WRONG)}
        assert counts == dict.fromkeys(RIGHT, 0) | dict.fromkeys(WRONG, 1)
    assert len(torchs._global_optimizer_post_hooks) <= hooks  # a clip of another test may be gone by now


def test_what_it_says():
    [message] = said("Clipper", "zero backward step clip")
    assert message.startswith("clip_by_global_norm(0.1) clips nothing: each of its first 10 calls found only")
    [message] = said("clip_grad_norm_", "zero clip backward step")
    assert message.startswith("clipwise.torch.clip_grad_norm_ clips nothing: none of its first 10 calls")
    for order in ("zero backward of_another step", "zero backward of_none step"):
        assert len(said("", order)) == 1


def test_nothing_is_said_of_what_is_called_once_or_measures_only():
    clipper = Clipper(torch.nn.Linear(2, 1), clipwise.clip_by_global_norm(float("inf")))
    for _ in range(20):
        clipper.clip_()
    assert said("clip_", "clip", steps=1) == []
    assert len(_first_calls._watching) == 1
    Loop().run("zero backward step", 110)
    assert not _first_calls._watching


def test_a_loss_without_weight_yet_is_no_wrong_order():
    _first_calls._of_functions.clear()
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([weight], 0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for step in range(20):
            optimizer.zero_grad(set_to_none=False)
            (weight.sum() * (step >= 15)).backward()
            clipwise.torch.clip_grad_norm_([weight], 0.1)
            optimizer.step()
