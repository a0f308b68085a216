"""A clip that never acts is refused where that is known beforehand, and said where it is not."""

import copy
import gc
import types
import warnings

import pytest
import torch
from torch.distributed.optim import _apply_optimizer_in_backward

import clipwise
from clipwise.errors import ArgumentError
from tests.torch.loops.left_out import Lomo, hand_over
from tests.torch.loops.reference_loops import backward, make_model

CLIP = clipwise.clip_by_norm(0.05)


class TestRefused:
    def test_lomo(self):
        with pytest.raises(ArgumentError, match=r"Lomo moves the weights in its fused_backward.*_norm="):
            clipwise.torch.attach(Lomo(make_model(), lr=0.1), CLIP)

    def test_layer_wise(self):
        dummies = pytest.importorskip("transformers.trainer_pt_utils")
        model = make_model()
        each = {p: torch.optim.SGD([p], lr=0.1) for p in model.parameters()}
        dummy = dummies.LayerWiseDummyOptimizer(optimizer_dict=each)
        with pytest.raises(ArgumentError, match=r"DummyOptimizer takes no steps.*optimizer_dict\.values"):
            clipwise.torch.attach(dummy, CLIP, model=model)
        for one in each.values():  # the way out
            clipwise.torch.attach(one, CLIP, model=model)

    def test_in_backward(self):
        model = make_model()
        opt = torch.optim.SGD(model.parameters(), lr=0.1)
        _apply_optimizer_in_backward(torch.optim.SGD, model.parameters(), {"lr": 0.1})
        with pytest.raises(ArgumentError, match=r"stepped inside backward by SGD.*_in_backward_optimizers"):
            clipwise.torch.attach(opt, CLIP)
        inside = [one for p in model.parameters() for one in p._in_backward_optimizers]
        clippers = [clipwise.torch.attach(one, CLIP) for one in inside]
        backward(model, 2)
        assert [clipper.steps for clipper in clippers] == [1] * 4


def moved_past(model, clip=CLIP):
    opt = torch.optim.SGD(model.parameters(), lr=0.1)
    hand_over(opt)
    clipper = clipwise.torch.attach(opt, clip)
    backward(model, 2)
    opt.step()
    return opt, clipper


SAID = r"clip_by_norm\(0.05\), attached to SGD, saw no gradient, and yet the weights moved"


class TestSaid:
    def test_when_it_is_detached(self):
        _, clipper = moved_past(make_model())
        with pytest.warns(UserWarning, match=SAID) as caught:
            clipper.detach()
        assert caught[0].filename == __file__
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            clipper.detach()

    def test_when_its_optimizer_goes(self):
        model = make_model()
        kept = list(moved_past(model))

        def let_go():
            kept.clear()
            gc.collect()

        with pytest.warns(UserWarning, match=SAID):
            let_go()

    def test_where_the_gradients_are_taken_away_before_the_step(self):
        model = make_model()
        opt = torch.optim.SGD(model.parameters(), lr=0.1)
        for p in model.parameters():
            p.register_post_accumulate_grad_hook(lambda p: Lomo.move(types.SimpleNamespace(lr=0.1), p))
        clipper = clipwise.torch.attach(opt, CLIP)
        backward(model, 2)
        opt.step()
        with pytest.warns(UserWarning, match=SAID):
            clipper.detach()

    @pytest.mark.filterwarnings("error")
    def test_not_where_all_is_well(self):
        model = make_model()
        opt = torch.optim.SGD(model.parameters(), lr=0.1)
        clipwise.torch.attach(opt, CLIP).detach()
        with clipwise.torch.attach(opt, CLIP) as clipper:
            backward(model, 2)
            opt.step()
            copy.deepcopy(clipper).detach()
        clipwise.torch.attach(torch.optim.SGD(make_model().parameters(), lr=0.1), CLIP)
        gc.collect()
