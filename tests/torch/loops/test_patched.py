"""`patch()`: our functions in the place of torch's, under trainers that call them, and away again."""

import itertools
import warnings

import pytest
import torch
from torch.nn import utils
from torch.nn.utils import clip_grad, clip_grad_norm_

import clipwise
from clipwise.errors import ThresholdError
from tests.torch.loops.reference_loops import (
    STEPS,
    THRESHOLD,
    assert_same,
    backward,
    clip_globally,
    clip_values,
    gradients_of,
    loss_of,
    make_model,
    norm_of,
)
from tests.torch.loops.test_clipped_twice import exchanged, nobody_listens, nothing_stays_behind  # noqa: F401

optim = torch.optim
CLIP = clipwise.clip_by_global_norm(THRESHOLD)


def gradient_that_torch_loses():
    """Finite in fp32, while its squares are not."""
    p = torch.nn.Parameter(torch.zeros(2))
    p.grad = torch.tensor([3e20, -4e20])
    return p


@pytest.mark.parametrize("call", [lambda p: utils.clip_grad_norm_(p, 1.0), lambda p: clip_grad_norm_(p, 1.0)])
@pytest.mark.parametrize("as_generator", [False, True])
def test_who_looks_it_up_and_who_imported_it_before_gets_ours(call, as_generator):
    p = gradient_that_torch_loses()
    with clipwise.torch.patch():
        call(q for q in [p]) if as_generator else call([p])
    assert p.grad.tolist() == pytest.approx([0.6, -0.8])
    p = gradient_that_torch_loses()
    call([p])
    assert p.grad.tolist() == [0.0, 0.0]  # torch's own again


def test_undo():
    patch = clipwise.torch.patch()
    assert utils.clip_grad_norm_ is clipwise.torch.clip_grad_norm_
    assert clip_grad.clip_grad_value_ is clipwise.torch.clip_grad_value_
    assert utils.get_total_norm is clipwise.torch.get_total_norm
    patch.undo()
    assert exchanged() == []
    patch.undo()
    assert exchanged() == []


@pytest.mark.parametrize("inner_first", [True, False])
def test_nested(inner_first):
    outer, inner = clipwise.torch.patch(), clipwise.torch.patch()
    first, second = (inner, outer) if inner_first else (outer, inner)
    first.undo()
    second.undo()
    assert exchanged() == []


def test_an_error_inside_puts_torchs_back():
    with pytest.raises(ThresholdError), clipwise.torch.patch():
        utils.clip_grad_norm_([gradient_that_torch_loses()], -1.0)
    assert exchanged() == []


ORDERS = [
    order
    for order in itertools.permutations(("attach", "detach", "patch", "undo"))
    if order.index("attach") < order.index("detach") and order.index("patch") < order.index("undo")
]


@pytest.mark.parametrize("order", ORDERS, ids=" ".join)
def test_with_attach_in_any_order(order):
    """Ours between patch and undo, torch's own outside of it, and nothing stays behind."""
    opt = optim.SGD(make_model().parameters(), lr=0.1)
    there = {}
    for what in order:
        if what == "attach":
            there[what] = clipwise.torch.attach(opt, CLIP)
        elif what == "patch":
            there[what] = clipwise.torch.patch()
        elif what == "detach":
            there["attach"].detach()
        else:
            there["patch"].undo()
        p = gradient_that_torch_loses()
        utils.clip_grad_norm_([p], 1.0)
        patched = "patch" in there and what != "undo" and order.index(what) < order.index("undo")
        assert p.grad.tolist() == pytest.approx([0.6, -0.8] if patched else [0.0, 0.0])
    assert exchanged() == []


@pytest.mark.parametrize("by_value", [False, True])
def test_a_loop_of_torchs_own(by_value):
    ours, reference = make_model(), make_model()
    opt, ref = (optim.SGD(m.parameters(), lr=0.1, momentum=0.9) for m in (ours, reference))
    with clipwise.torch.patch():
        for step in range(STEPS):
            backward(ours, step)
            if by_value:
                utils.clip_grad_value_(ours.parameters(), 0.01)
            else:
                norm = utils.clip_grad_norm_(ours.parameters(), THRESHOLD)
            opt.step()
            backward(reference, step)
            if by_value:
                clip_values(reference)
            else:
                assert float(norm) == pytest.approx(norm_of(gradients_of(reference)), rel=1e-5)
                clip_globally(reference)
            ref.step()
    assert_same(ours, reference, rtol=1e-4, atol=2e-6)  # torch's 1e-6 beside the norm


lightning = pytest.importorskip("lightning")


class Module(lightning.LightningModule):
    def __init__(self, optimizer):
        super().__init__()
        self.net, self.make = make_model(), optimizer

    def training_step(self, batch, _):
        return loss_of(self.net, int(batch)) * 1e20  # squares overflow: torch's own clips all to 0

    def configure_optimizers(self):
        return self.make(self.parameters())


def trainer_of(tmp_path, **options):
    return lightning.Trainer(
        max_epochs=1,
        accelerator="cpu",
        default_root_dir=tmp_path,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )


def fit(trainer, module):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*(num_workers|log_every_n_steps|LeafSpec|isinstance).*")
        trainer.fit(module, torch.utils.data.DataLoader(range(4), batch_size=1))


def expected_of_training():
    reference = make_model()
    ref = optim.SGD(reference.parameters(), lr=0.1)
    for step in range(4):
        reference.zero_grad()
        (loss_of(reference, step) * 1e20).backward()
        clip_globally(reference)
        ref.step()
    return reference


class TestLightning:
    def test_its_own_clipping_gets_ours(self, tmp_path):
        module = Module(lambda p: optim.SGD(p, lr=0.1))
        with clipwise.torch.patch():
            fit(trainer_of(tmp_path, gradient_clip_val=THRESHOLD), module)
        assert_same(module.net, expected_of_training(), rtol=1e-5, atol=1e-6)

    def test_fabrics_clip_gradients(self):
        fabric = lightning.Fabric(accelerator="cpu", devices=1)
        p = torch.nn.Parameter(torch.zeros(2))
        holder = torch.nn.Module()
        holder.p = p
        model, opt = fabric.setup(holder, optim.SGD([p], lr=1.0))
        with clipwise.torch.patch():
            p.grad = torch.tensor([3e20, -4e20])
            fabric.clip_gradients(model, opt, max_norm=1.0)
        assert p.grad.tolist() == pytest.approx([0.6, -0.8])

    def test_attach_in_a_module(self, tmp_path):
        """A trainer steps with a closure; its clipping is told of."""

        def make(parameters):
            opt = optim.SGD(parameters, lr=0.1)
            self.clipper = clipwise.torch.attach(opt, CLIP)
            return opt

        module = Module(make)
        with pytest.warns(UserWarning, match=r"the loop clips too: .* to 7"):
            fit(trainer_of(tmp_path, gradient_clip_val=7.0, gradient_clip_algorithm="value"), module)
        self.clipper.detach()
        assert self.clipper.steps == 4

        module = Module(make)
        fit(trainer_of(tmp_path), module)
        self.clipper.detach()
        assert_same(module.net, expected_of_training(), rtol=1e-5, atol=1e-6)
        assert self.clipper.steps == 4
