"""Lightning's Trainer for real, on the CPU, against loops written out by hand."""

import copy
import itertools
import pickle
import types

import pytest
import torch

pytest.importorskip("lightning.pytorch")

import lightning.pytorch as pl
from lightning.pytorch.plugins.precision import MixedPrecision

import clipwise
from clipwise.integrations.lightning import ClipCallback
from tests.integrations.lightning_runs import SGD, Automatic, Two, fit, sgd, steps
from tests.torch.loops.left_out import Lomo
from tests.torch.loops.reference_loops import (
    STEPS,
    THRESHOLD,
    BoundedSGD,
    ClipAtPercentile,
    assert_same,
    backward,
    clip_globally,
    clip_values,
    loss_of,
    make_model,
    norm_of,
    run_by_hand,
)

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:lightning", "ignore:.*:pytest.PytestWarning")
optim = torch.optim
CLIP = clipwise.clip_by_global_norm(THRESHOLD)
OPTIMIZERS = {
    "sgd": sgd,
    "adam": lambda p: optim.Adam(p, lr=0.01),
    "fused": lambda p: optim.AdamW(p, lr=0.01, fused=True),
    "fused sgd": lambda p: optim.SGD(p, lr=0.1, momentum=0.9, fused=True),
}


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_automatic_optimization(make):
    module, reference = Automatic(make), make_model()
    callback = ClipCallback(CLIP)
    fit(module, callback)
    clipped = run_by_hand(reference, make(reference.parameters()))
    assert_same(module.net, reference)
    assert (callback.clipper.steps, callback.clipper.clipped_steps) == (STEPS, clipped)
    assert callback.clipper.report.names[0] == "net.0.weight"


@pytest.mark.parametrize(
    "given", ["clip_by_global_norm(0.05)", {"method": "clip_by_global_norm", "threshold": 0.05}]
)
def test_a_clip_as_text(given):
    module, reference = Automatic(), make_model()
    fit(module, ClipCallback(given))
    run_by_hand(reference, sgd(reference.parameters()))
    assert_same(module.net, reference)


def test_autoclip():
    module, reference = Automatic(), make_model()
    fit(module, ClipCallback(clipwise.autoclip(60)))
    run_by_hand(reference, sgd(reference.parameters()), ClipAtPercentile(60))
    assert_same(module.net, reference)


@pytest.mark.parametrize("make", [OPTIMIZERS["sgd"], OPTIMIZERS["fused"]], ids=["sgd", "fused"])
def test_bf16_mixed(make):
    module, reference = Automatic(make), make_model()
    callback = ClipCallback(CLIP)
    fit(module, callback, precision="bf16-mixed")
    opt, clipped = make(reference.parameters()), 0
    for step in range(STEPS):
        reference.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=False):
            loss = loss_of(reference, step)
        loss.backward()
        clipped += clip_globally(reference)
        opt.step()
    assert 0 < clipped < STEPS
    assert_same(module.net, reference)
    assert callback.clipper.clipped_steps == clipped


@pytest.mark.parametrize("make", [OPTIMIZERS["sgd"], OPTIMIZERS["fused"]], ids=["sgd", "fused"])
def test_16_mixed(make):
    """Lightning makes bf16 of 16-mixed on the CPU, unless its plugin is given."""

    def scaler():
        return torch.amp.GradScaler("cpu", init_scale=2.0**13, growth_interval=3)

    module, reference = Automatic(make), make_model()
    callback = ClipCallback(CLIP)
    fit(module, callback, plugins=MixedPrecision("16-mixed", "cpu", scaler()))
    opt, theirs, clipped, scales = make(reference.parameters()), scaler(), 0, []
    for step in range(STEPS):
        reference.zero_grad()
        with torch.autocast("cpu", dtype=torch.half, cache_enabled=False):
            loss = loss_of(reference, step)
        theirs.scale(loss).backward()
        theirs.unscale_(opt)
        if norm_of(p.grad for p in reference.parameters()) < float("inf"):
            clipped += clip_globally(reference)
        theirs.step(opt)
        theirs.update()
        scales.append(theirs.get_scale())
    assert min(b / a for a, b in itertools.pairwise(scales)) < 1  # a step was skipped
    assert 0 < clipped < STEPS
    assert_same(module.net, reference, rtol=2e-5, atol=2e-6)
    assert callback.clipper.clipped_steps == clipped


@pytest.mark.parametrize("accumulate", [2, 3, 4])
def test_accumulation(accumulate):
    """The last batches of the epoch are stepped on too, though fewer."""
    module, reference = Automatic(), make_model()
    callback = ClipCallback(CLIP)
    fit(module, callback, accumulate_grad_batches=accumulate)
    opt, clipped, taken = sgd(reference.parameters()), 0, 0
    for step in range(STEPS):
        (loss_of(reference, step) / accumulate).backward()
        if (step + 1) % accumulate == 0 or step == STEPS - 1:
            clipped += clip_globally(reference)
            opt.step()
            opt.zero_grad()
            taken += 1
    assert clipped > 0
    assert_same(module.net, reference)
    assert (callback.clipper.steps, callback.clipper.clipped_steps) == (taken, clipped)


def test_lbfgs_evaluates_its_closure_several_times():
    def make(parameters):
        return optim.LBFGS(parameters, lr=0.1, max_iter=3)

    module, reference = Automatic(make), make_model()
    callback = ClipCallback(CLIP)
    fit(module, callback)
    opt = make(reference.parameters())
    for step in range(STEPS):

        def closure(step=step):
            loss = backward(reference, step)
            clip_globally(reference)
            return loss

        opt.step(closure)
    assert_same(module.net, reference, rtol=1e-5, atol=1e-6)
    assert callback.clipper.steps > STEPS


def by_hand_two(clips):
    references = [make_model(1), make_model(2)]
    opts = [sgd(references[0].parameters()), optim.Adam(references[1].parameters(), lr=0.01)]
    for step in range(STEPS):
        for reference, factor, opt, clip in zip(references, (1.0, 3.0), opts, clips, strict=True):
            reference.zero_grad()
            (loss_of(reference, step) * factor).backward()
            clip(reference)
            opt.step()
    return references


def test_several_optimizers_are_clipped_each_on_its_own():
    module = Two()
    callback = ClipCallback(CLIP)
    fit(module, callback)
    first, second = by_hand_two([clip_globally, clip_globally])
    assert_same(module.first, first)
    assert_same(module.second, second)
    assert [one.steps for one in callback.clippers] == [STEPS, STEPS]
    with pytest.raises(clipwise.errors.ArgumentError, match="there are 2 optimizers: see clippers"):
        _ = callback.clipper


def test_a_clip_for_each_optimizer():
    module = Two()
    fit(module, ClipCallback([None, clipwise.clip_by_value(0.01)]))
    first, second = by_hand_two([lambda model: None, clip_values])
    assert_same(module.first, first)
    assert_same(module.second, second)


def test_weights_of_one_optimizer():
    """As in WGAN, where the critic's alone are bounded."""
    module = Two()
    callback = ClipCallback(weights=[clipwise.clip_by_value(0.01), None])
    fit(module, callback)
    assert max(float(p.detach().abs().max()) for p in module.first.parameters()) <= 0.01
    _, second = by_hand_two([lambda model: None] * 2)
    assert_same(module.second, second, rtol=0, atol=0)
    assert callback.clippers[1] is None


def test_updates():
    module, reference = Automatic(), make_model()
    callback = ClipCallback(CLIP, updates=[clipwise.clip_by_norm(BoundedSGD.LIMIT)])
    fit(module, callback)
    run_by_hand(reference, BoundedSGD(reference.parameters(), **SGD))
    assert_same(module.net, reference)
    assert callback.clipper.updates.clipped_steps > 0
    assert callback.state_dict()["clippers"][0]["updates"]["steps"] == STEPS


@pytest.mark.parametrize("make", [OPTIMIZERS["sgd"], OPTIMIZERS["fused"]], ids=["sgd", "fused"])
def test_a_step_with_nan_does_not_happen(make):
    class WithNaN(Automatic):
        def training_step(self, batch, index):
            return super().training_step(batch, index) * (float("nan") if index == 4 else 1.0)

    module, reference = WithNaN(make), make_model()
    callback = ClipCallback(CLIP)
    fit(module, callback)
    run_by_hand(reference, make(reference.parameters()), steps=[0, 1, 2, 3, 5, 6, 7, 8])
    assert_same(module.net, reference)
    assert callback.clipper.skipped_steps == 1


@pytest.mark.parametrize("listed", [True, False])
def test_the_other_package_with_a_trainer_of_its_own(listed):
    other = pytest.importorskip("pytorch_lightning")
    assert not issubclass(pl.Callback, other.Callback)

    class Module(other.LightningModule):
        training_step, configure_optimizers = Automatic.training_step, Automatic.configure_optimizers

        def __init__(self):
            super().__init__()
            self.net, self.make_optimizer = make_model(), sgd

    module, reference = Module(), make_model()
    callback = ClipCallback(CLIP)
    fit(module, package=other, callbacks=[callback] if listed else callback)
    run_by_hand(reference, sgd(reference.parameters()))
    assert_same(module.net, reference)


def test_fitted_twice():
    """The second fit makes new optimizers, and clips them."""
    module, reference = Automatic(), make_model()
    callback = ClipCallback(CLIP)
    for _ in range(2):
        fit(module, callback, data=steps())
        run_by_hand(reference, sgd(reference.parameters()))
    assert_same(module.net, reference)
    assert callback.clipper.steps == STEPS


def test_left_as_it_was_after_the_fit():
    module = Automatic()
    trainer = fit(module, ClipCallback(CLIP))
    (opt,) = trainer.optimizers
    assert not opt._optimizer_step_pre_hooks
    assert not opt._optimizer_step_post_hooks


def test_left_as_it_was_after_an_error():
    class Fails(Automatic):
        def training_step(self, batch, index):
            if index == 3:
                raise RuntimeError("on purpose")
            return super().training_step(batch, index)

    module, callback = Fails(), ClipCallback(CLIP)
    with pytest.raises(RuntimeError, match="on purpose"):
        fit(module, callback)
    assert callback.clipper.steps == 3
    assert not callback.clipper.optimizer._optimizer_step_pre_hooks
    assert callback.state_dict()["clippers"][0]["steps"] == 3


def test_a_clip_that_sees_no_gradient_says_so_once():
    def past_the_hooks(parameters):
        opt = torch.optim.SGD(parameters, lr=0.1)
        take_away = lambda p: Lomo.move(types.SimpleNamespace(lr=0.1), p)  # noqa: E731
        for p in opt.param_groups[0]["params"]:
            p.register_post_accumulate_grad_hook(take_away)
        return opt

    with pytest.warns(UserWarning, match="attached to SGD, saw no gradient, and yet the weights") as caught:
        fit(Automatic(past_the_hooks), ClipCallback(CLIP), log_every_n_steps=2)
    assert sum("saw no gradient" in str(warning.message) for warning in caught) == 1


def test_a_copy_in_the_middle_of_a_fit_is_a_record():
    class Copying(pl.Callback):
        def on_train_batch_end(self, trainer, *_):
            self.copies = [copy.copy(callback), copy.deepcopy(callback), pickle.loads(pickle.dumps(callback))]
            for one in self.copies:
                one.teardown(trainer, None, "fit")

    callback, copying = ClipCallback("autoclip(60)"), Copying()
    fit(Automatic(), callback, copying, limit_train_batches=3)
    assert [one.clipper.steps for one in (callback, *copying.copies)] == [3] * 4
    for one in copying.copies:
        assert one.state_dict()["clippers"][0]["steps"] == 3
        fit(Automatic(), one, limit_train_batches=2)
        assert (one.clipper.steps, callback.clipper.steps) == (2, 3)
