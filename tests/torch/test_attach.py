"""`attach` in the loops people write, each against a reference loop written out by hand."""

import contextlib
import copy
import math
import weakref

import pytest
import torch
from torch import nn

import clipwise
from clipwise.errors import ArgumentError, ParameterError

pytestmark = pytest.mark.device_path

THRESHOLD = 0.05


def make_model(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))


def batch(step: int) -> torch.Tensor:
    return torch.randn(5, 6, generator=torch.Generator().manual_seed(step))


def loss_of(model: nn.Module, step: int) -> torch.Tensor:
    return model(batch(step)).square().mean() * (10.0 if step % 3 == 2 else 1.0)


def clip_by_hand(parameters, threshold: float = THRESHOLD) -> None:
    """The formula, written out: no clipwise, no torch.nn.utils."""
    grads = [p.grad for p in parameters if p.grad is not None]
    norm = math.sqrt(sum(g.double().square().sum().item() for g in grads))
    if norm > threshold:
        for g in grads:
            g.copy_(g.double() * (threshold / norm))


def assert_same(a: nn.Module, b: nn.Module) -> None:
    for p, q in zip(a.parameters(), b.parameters(), strict=True):
        # One rounding of each clipped entry (6e-8), carried through a few steps that may divide by it.
        torch.testing.assert_close(p, q, rtol=2e-6, atol=1e-7)


OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "fused adamw": lambda p: torch.optim.AdamW(p, lr=0.01, fused=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01),
    "foreach adam": lambda p: torch.optim.Adam(p, lr=0.01, foreach=True),
}
CLIP = clipwise.clip_by_global_norm(THRESHOLD)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_plain_loop_with_a_schedule_of_the_rate(optimizer):
    ours, reference = make_model(), make_model()
    optimizers = [OPTIMIZERS[optimizer](m.parameters()) for m in (ours, reference)]
    schedulers = [torch.optim.lr_scheduler.StepLR(o, 3, 0.5) for o in optimizers]
    clipper = clipwise.torch.attach(optimizers[0], CLIP, model=ours)
    for step in range(9):
        for model, opt, scheduler in zip((ours, reference), optimizers, schedulers, strict=True):
            opt.zero_grad()
            loss_of(model, step).backward()
            if model is reference:
                clip_by_hand(model.parameters())
            opt.step()
            scheduler.step()
    assert_same(ours, reference)
    assert clipper.steps == 9
    assert 0 < clipper.clipped_steps <= 9
    assert clipper.report.worst in dict(ours.named_parameters())


def test_accumulation_clips_the_sum_once_a_real_step():
    ours, reference = make_model(), make_model()
    optimizers = [OPTIMIZERS["sgd"](m.parameters()) for m in (ours, reference)]
    clipper = clipwise.torch.attach(optimizers[0], CLIP)
    for model, opt in zip((ours, reference), optimizers, strict=True):
        for step in range(12):
            (loss_of(model, step) / 4).backward()
            if step % 4 == 3:
                if model is reference:
                    clip_by_hand(model.parameters())
                opt.step()
                opt.zero_grad()
    assert_same(ours, reference)
    assert clipper.steps == 3


@pytest.mark.parametrize("user_unscales", [False, True])
@pytest.mark.parametrize("optimizer", ["sgd", "fused adamw", "adam"])
def test_grad_scaler_clips_true_gradients(optimizer, user_unscales):
    """A scale of 2^14 through the whole loop: the parameters are those of a loop without any scaling."""
    ours, reference = make_model(), make_model()
    opt, ref = OPTIMIZERS[optimizer](ours.parameters()), OPTIMIZERS[optimizer](reference.parameters())
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**14, growth_interval=4)
    clipper = clipwise.torch.attach(opt, CLIP)
    for step in range(9):
        opt.zero_grad()
        scaler.scale(loss_of(ours, step)).backward()
        if user_unscales:
            scaler.unscale_(opt)
        scaler.step(opt)
        scaler.update()

        ref.zero_grad()
        loss_of(reference, step).backward()
        true_norm = math.sqrt(sum(p.grad.square().sum().item() for p in reference.parameters()))
        assert float(clipper.report.norm) == pytest.approx(true_norm, rel=1e-4)
        clip_by_hand(reference.parameters())
        ref.step()
    assert_same(ours, reference)
    assert not hasattr(opt, "grad_scale")


@pytest.mark.parametrize("user_unscales", [False, True])
@pytest.mark.parametrize("optimizer", ["sgd", "fused adamw"])
def test_a_step_that_the_scaler_skips_is_neither_clipped_nor_counted(optimizer, user_unscales):
    model = make_model()
    opt = OPTIMIZERS[optimizer](model.parameters())
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    clipper = clipwise.torch.attach(opt, clipwise.autoclip(10))
    for step in range(4):
        before = copy.deepcopy(model)
        opt.zero_grad()
        scaler.scale(loss_of(model, step)).backward()
        if step == 2:
            next(model.parameters()).grad[0, 0] = math.inf
        if user_unscales:
            scaler.unscale_(opt)
        scaler.step(opt)
        scaler.update()
        if step == 2:
            assert all(
                torch.equal(p, q) for p, q in zip(model.parameters(), before.parameters(), strict=True)
            )
    assert clipper.steps == 3
    assert clipper.skipped_steps == 0
    assert scaler.get_scale() == 512.0  # it saw the overflow and backed off


def test_closure_is_clipped_after_each_evaluation():
    """LBFGS evaluates several times a step; each time it must see clipped gradients."""
    ours, reference = make_model().double(), make_model().double()
    opt, ref = (torch.optim.LBFGS(m.parameters(), lr=0.05, max_iter=3) for m in (ours, reference))
    clipper = clipwise.torch.attach(opt, CLIP)

    def closure_for(model, optimizer, by_hand):
        def closure():
            optimizer.zero_grad()
            loss = model(batch(0).double()).square().mean()
            loss.backward()
            if by_hand:
                clip_by_hand(model.parameters())
            return loss

        return closure

    for _ in range(3):
        opt.step(closure_for(ours, opt, False))
        ref.step(closure=closure_for(reference, ref, True))
    for p, q in zip(ours.parameters(), reference.parameters(), strict=True):
        # Curvature amplifies the last bits, by 1e9 on some processors.
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-8)
    assert clipper.steps > 3


def test_a_closure_given_by_keyword_to_sgd():
    ours, reference = make_model(), make_model()
    opt, ref = OPTIMIZERS["sgd"](ours.parameters()), OPTIMIZERS["sgd"](reference.parameters())
    clipper = clipwise.torch.attach(opt, CLIP)
    for step in range(4):

        def closure(step=step):
            opt.zero_grad()
            loss = loss_of(ours, step)
            loss.backward()
            return loss

        returned = opt.step(closure=closure)
        ref.zero_grad()
        expected = loss_of(reference, step)
        expected.backward()
        clip_by_hand(reference.parameters())
        ref.step()
        assert returned.item() == pytest.approx(expected.item(), rel=1e-5)
    assert_same(ours, reference)
    assert clipper.steps == 4


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("closure", [False, True])
def test_skip_takes_no_step_at_all(optimizer, closure):
    """Parameters and optimizer state stay as they were, momentum and weight decay included."""
    ours, reference = make_model(), make_model()
    opt, ref = OPTIMIZERS[optimizer](ours.parameters()), OPTIMIZERS[optimizer](reference.parameters())
    clipper = clipwise.torch.attach(opt, CLIP, model=ours)
    for step in range(6):

        def backward(step=step):
            opt.zero_grad()
            loss = loss_of(ours, step)
            loss.backward()
            if step == 3:
                ours[2].bias.grad[1] = math.nan
            return loss

        if closure:
            opt.step(backward)
        else:
            backward()
            opt.step()
        if step == 3:
            assert clipper.report.skipped
            assert clipper.report.worst == "2.bias"
            assert math.isnan(ours[2].bias.grad[1])  # the gradients are there to look at
            continue
        ref.zero_grad()
        loss_of(reference, step).backward()
        clip_by_hand(reference.parameters())
        ref.step()
    assert_same(ours, reference)
    assert (clipper.steps, clipper.skipped_steps) == (6, 1)


def test_bf16_gradients_are_measured_wide():
    model = make_model().bfloat16()
    opt = torch.optim.SGD(model.parameters(), lr=0.1)
    clipper = clipwise.torch.attach(opt, clipwise.clip_by_global_norm(math.inf))
    model(batch(0).bfloat16()).square().mean().backward()
    expected = math.sqrt(sum(p.grad.double().square().sum().item() for p in model.parameters()))
    opt.step()
    assert float(clipper.report.norm) == pytest.approx(expected, rel=1e-12)


def test_bf16_autocast():
    ours, reference = make_model(), make_model()
    opt, ref = OPTIMIZERS["sgd"](ours.parameters()), OPTIMIZERS["sgd"](reference.parameters())
    clipwise.torch.attach(opt, CLIP)
    for step in range(4):
        for model, optimizer in ((ours, opt), (reference, ref)):
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16):
                loss = loss_of(model, step)
            loss.backward()
            if model is reference:
                clip_by_hand(model.parameters())
            optimizer.step()
    assert_same(ours, reference)


def test_detach_and_context_manager():
    model = make_model()
    opt = torch.optim.SGD(model.parameters(), lr=0.1)
    with clipwise.torch.attach(opt, CLIP) as clipper:
        loss_of(model, 0).backward()
        opt.step()
    opt.step()
    assert clipper.steps == 1
    with contextlib.suppress(RuntimeError), clipwise.torch.attach(opt, CLIP):
        raise RuntimeError
    clipwise.torch.attach(opt, CLIP).detach()


def test_parameters_that_are_added_later_are_clipped_too():
    model, head = make_model(), nn.Linear(3, 1)
    for clip in (
        CLIP,
        clipwise.adagc(warmup=2),
        clipwise.Clip(clipwise.thresholds.percentile(50, 3), per="unit"),
    ):
        opt = torch.optim.SGD(model.parameters(), lr=0.0)
        clipper = clipwise.torch.attach(opt, clip)
        for step in range(4):
            if step == 2:
                opt.add_param_group({"params": head.parameters()})
            opt.zero_grad()
            head(model(batch(step))).sum().backward()
            opt.step()
        assert len(clipper.report.names) == 6


def test_gradients_that_come_and_go_keep_their_own_history():
    """A parameter without a gradient in some steps: the others' thresholds do not shift places."""
    a, b = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    opt = torch.optim.SGD([a, b], lr=0.0)
    clip = clipwise.Clip(clipwise.thresholds.percentile(0), per="tensor")
    clipwise.torch.attach(opt, clip)
    for step, (ga, gb) in enumerate([(1.0, 100.0), (None, 0.5), (3.0, None), (2.0, 50.0), (5.0, 500.0)]):
        for p, g in ((a, ga), (b, gb)):
            p.grad = None if g is None else torch.tensor([g])
        opt.step()
        expected = {0: (1.0, 100.0), 1: (None, 0.5), 2: (1.0, None), 3: (1.0, 0.5), 4: (1.0, 0.5)}[step]
        for p, value in ((a, expected[0]), (b, expected[1])):
            assert (None if p.grad is None else p.grad.item()) == value


def test_auto_knows_the_optimizer():
    """SGD gets the bound relative to the weights, Adam none; embeddings are left out of the weights' norm."""
    embedding, linear = nn.Embedding(1000, 4), nn.Linear(4, 1)
    model = nn.ModuleDict({"embedding": embedding, "linear": linear})

    def threshold_with(optimizer) -> float:
        with clipwise.torch.attach(optimizer, clipwise.auto(), model=model) as clipper:
            for p in model.parameters():
                p.grad = torch.full_like(p, 1e3)
            optimizer.step()
        return float(clipper.report.threshold)

    weights = math.sqrt(sum(p.double().square().sum().item() for p in linear.parameters()))
    found = threshold_with(torch.optim.SGD(model.parameters(), lr=1e-9, momentum=0.9))
    assert found == pytest.approx(0.02 * weights * 3 * (1 - 0.9) / 1e-9, rel=1e-6)
    assert threshold_with(torch.optim.Adam(model.parameters(), lr=1e-9)) == math.inf


@pytest.mark.parametrize(
    "spec",
    [
        "clip_by_global_norm(0.05)",
        {"gradient_clipping": {"method": "clip_by_global_norm", "threshold": 0.05}},
    ],
)
def test_a_string_or_a_configuration_will_do(spec):
    opt = torch.optim.SGD(make_model().parameters(), lr=0.1)
    assert clipwise.torch.attach(opt, spec).clip == CLIP


class TestParametersComeAndGo:
    def test_a_group_added_before_the_first_step_is_clipped_and_checked(self):
        a, b = (nn.Parameter(torch.zeros(2)) for _ in range(2))
        opt = torch.optim.SGD([a], lr=1.0)
        clipper = clipwise.torch.attach(opt, clipwise.clip_by_global_norm(1.0))
        opt.add_param_group({"params": [b]})
        a.grad, b.grad = torch.zeros(2), torch.tensor([300.0, 400.0])
        opt.step()
        assert b.tolist() == pytest.approx([-0.6, -0.8])
        b.grad = torch.tensor([math.nan, 1.0])
        opt.step()
        assert clipper.skipped_steps == 1

    def test_a_group_that_is_removed_counts_no_more(self):
        a, b = (nn.Parameter(torch.zeros(2)) for _ in range(2))
        opt = torch.optim.SGD([{"params": [a]}, {"params": [b]}], lr=0.0)
        clipper = clipwise.torch.attach(opt, clipwise.adagc())
        a.grad, b.grad = torch.tensor([3.0, 4.0]), torch.tensor([300.0, 400.0])
        opt.param_groups.pop()
        opt.step()
        assert float(clipper.report.norm) == 5.0
        assert b.grad.tolist() == [300.0, 400.0]

    def test_a_parameter_in_the_place_of_another(self):
        a, b = (nn.Parameter(torch.zeros(2)) for _ in range(2))
        opt = torch.optim.SGD([a], lr=0.0)
        clipwise.torch.attach(opt, clipwise.clip_by_norm(1.0))
        opt.param_groups[0]["params"] = [b]
        b.grad = torch.tensor([30.0, 40.0])
        opt.step()
        assert b.grad.tolist() == pytest.approx([0.6, 0.8])

    def test_resuming_after_a_group_was_added(self):
        def build():
            torch.manual_seed(0)
            a, b = (nn.Parameter(torch.ones(2)) for _ in range(2))
            opt = torch.optim.SGD([a], lr=0.1)
            clipper = clipwise.torch.attach(opt, clipwise.adagc(warmup=2))
            opt.add_param_group({"params": [b]})
            return a, b, opt, clipper

        a, b, opt, clipper = build()
        for value in (1.0, 2.0, 3.0):
            a.grad, b.grad = torch.full((2,), value), torch.full((2,), 2 * value)
            opt.step()
        *_, resumed = build()
        resumed.load_state_dict(clipper.state_dict())
        assert resumed.steps == 3

    def test_two_modules_whose_parameters_have_the_same_names(self):
        a, b = nn.Linear(2, 2), nn.Linear(2, 2)
        for model in (None, a):
            opt = torch.optim.SGD(
                [{"params": m.named_parameters()} for m in (a, b)]
                if model is None
                else [{"params": m.parameters()} for m in (a, b)],
                lr=0.0,
            )
            with clipwise.torch.attach(opt, clipwise.clip_by_value(0.5), model=model) as clipper:
                for p in (*a.parameters(), *b.parameters()):
                    p.grad = torch.full_like(p, 100.0)
                opt.step()
            assert len(clipper.report.names) == 4
            assert all((p.grad == 0.5).all() for p in (*a.parameters(), *b.parameters()))

    def test_a_lazy_parameter_is_refused_by_name(self):
        model = nn.LazyLinear(3)
        with pytest.raises(ParameterError, match="'weight' has no shape yet"):
            clipwise.torch.attach(torch.optim.SGD(model.parameters(), lr=0.1), CLIP, model=model)


class CallsItsParent(torch.optim.SGD):
    def step(self, closure=None):
        return super().step(closure)


class CallsItsParentTwice(torch.optim.SGD):
    def step(self, closure=None):
        super().step(closure)
        return super().step()


class TestAStepInsideAStep:
    def test_that_is_made_of_two_is_clipped_once_before_both(self):
        p = nn.Parameter(torch.zeros(2))
        opt = CallsItsParentTwice([p], lr=1.0)
        clipper = clipwise.torch.attach(opt, clipwise.clip_by_global_norm(1.0))
        for gradient, place, skipped in [([3.0, 4.0], [-1.2, -1.6], 0), ([math.inf, 1.0], [-1.2, -1.6], 1)]:
            p.grad = torch.tensor(gradient)
            opt.step()
            assert p.tolist() == pytest.approx(place)
            assert clipper.skipped_steps == skipped
        assert clipper.steps == 2

    def test_is_clipped_and_counted_once(self):
        torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)  # from here on torch hooks both steps
        p = nn.Parameter(torch.zeros(2))
        opt = CallsItsParent([p], lr=1.0)
        clipper = clipwise.torch.attach(opt, clipwise.clip_by_global_norm(1.0))
        p.grad = torch.tensor([3.0, 4.0])
        opt.step()
        assert clipper.steps == 1
        assert float(clipper.report.norm) == 5.0
        p.grad = torch.tensor([math.nan, 4.0])
        opt.step()
        assert clipper.report.skipped
        assert (clipper.steps, clipper.skipped_steps) == (2, 1)
        assert p.tolist() == pytest.approx([-0.6, -0.8])
        assert p.grad[1] == 4.0

    def test_goes_on_after_a_step_that_raised(self):
        p = nn.Parameter(torch.zeros(2))
        opt = CallsItsParent([p], lr=1.0)
        clipper = clipwise.torch.attach(opt, clipwise.clip_by_global_norm(1.0))

        def broken():
            raise RuntimeError("out of memory")

        with pytest.raises(RuntimeError, match="out of memory"):
            opt.step(broken)
        p.grad = torch.tensor([3.0, 4.0])
        opt.step()
        assert clipper.steps == 1
        assert p.tolist() == pytest.approx([-0.6, -0.8])


class TestTheLoss:
    @pytest.mark.parametrize("clip", [clipwise.Clip(clipwise.thresholds.reduce_on_instability(patience=1))])
    def test_of_a_skipped_step_is_heard(self, clip):
        """With a NaN loss the gradient is NaN too; the policy still learns of it."""
        p = nn.Parameter(torch.zeros(2))
        opt = torch.optim.SGD([p], lr=0.1)
        clipper = clipwise.torch.attach(opt, clip)
        for _ in range(3):
            p.grad = torch.full((2,), math.nan)
            clipper.observe(math.nan)
            opt.step()
        p.grad = torch.ones(2)
        clipper.observe(1.0)
        opt.step()
        assert float(clipper.report.threshold) == 0.125

    def test_of_a_skipped_step_lowers_auto(self):
        """The rule: halved after each of two bad losses; then up only once losses are known."""
        p = nn.Parameter(torch.full((2,), 100.0))
        opt = torch.optim.SGD([p], lr=1e-3)
        clipper = clipwise.torch.attach(opt, clipwise.auto())
        for loss, gradient in [(math.nan, math.nan), (math.inf, math.inf), (1.0, 1e6)]:
            p.grad = torch.full((2,), gradient)
            clipper.observe(loss)
            opt.step()
        reach = 100.0 * math.sqrt(2) / 1e-3
        assert float(clipper.report.threshold) == pytest.approx(0.25 * 0.02 * reach, rel=1e-6)

    def test_of_a_closure_is_observed(self):
        model = make_model()
        opt = torch.optim.LBFGS(model.parameters(), lr=0.05, max_iter=3)
        clip = clipwise.Clip(clipwise.thresholds.reduce_on_instability())
        clipper = clipwise.torch.attach(opt, clip)

        def closure():
            opt.zero_grad()
            loss = loss_of(model, 0)
            loss.backward()
            return loss

        opt.step(closure)
        assert clipper.steps >= 3

    def test_that_was_observed_does_not_keep_its_graph(self):
        clipper = clipwise.torch.Clipper([nn.Parameter(torch.zeros(1))], CLIP)
        loss = loss_of(make_model(), 0)
        graph = weakref.ref(loss)
        clipper.observe(loss)
        del loss
        assert graph() is None

    @pytest.mark.parametrize("bad", ["1.0", None])
    def test_that_is_no_number(self, bad):
        clipper = clipwise.torch.Clipper([nn.Parameter(torch.zeros(1))], CLIP)
        with pytest.raises(ArgumentError, match="observe takes a loss, a number or a tensor"):
            clipper.observe(bad)


@pytest.mark.parametrize("clip", [CLIP, clipwise.clip_by_value(1e-9), clipwise.clip_by_norm(1e-9)], ids=repr)
def test_a_fused_optimizer_under_a_scaler_keeps_what_only_the_scale_can_hold(clip):
    """fp16 gradients of 1e-8 are 0 without their scale; the fused step takes it off in float32."""
    p = nn.Parameter(torch.ones(4, dtype=torch.float16))
    opt = torch.optim.AdamW([p], lr=0.1, fused=True, eps=1e-12)
    clipper = clipwise.torch.attach(opt, clip)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
    scaler.scale(torch.zeros((), requires_grad=True))  # the scaler starts with its first loss
    p.grad = torch.full((4,), 1e-8 * 2.0**16, dtype=torch.float16)
    scaler.step(opt)
    assert float(clipper.report.norm) == pytest.approx(2e-8, rel=1e-3)
    assert bool(clipper.report.clipped) == (clip != CLIP)
    assert (p < 0.95).all()  # Adam's first step is the learning rate, whatever the gradient's size


class TestBadInput:
    @pytest.mark.parametrize("spec", [None, 1.0, "none", torch.ones(1)])
    def test_no_clip(self, spec):
        opt = torch.optim.SGD(make_model().parameters(), lr=0.1)
        with pytest.raises(ArgumentError, match="expected a clip such as"):
            clipwise.torch.attach(opt, spec)
        assert not opt._optimizer_step_pre_hooks

    def test_no_optimizer(self):
        with pytest.raises(
            ArgumentError, match=r"takes a torch\.optim\.Optimizer, or several of them, got Linear"
        ):
            clipwise.torch.attach(nn.Linear(1, 1), CLIP)

    def test_twice(self):
        opt = torch.optim.SGD(make_model().parameters(), lr=0.1)
        clipwise.torch.attach(opt, CLIP)
        with pytest.raises(ArgumentError, match="attached to this optimizer already"):
            clipwise.torch.attach(opt, CLIP)

    def test_another_model(self):
        opt = torch.optim.SGD(make_model().parameters(), lr=0.1)
        with pytest.raises(ParameterError, match="none of the optimizer's parameters belongs to the model"):
            clipwise.torch.attach(opt, CLIP, model=make_model())

    def test_a_pattern_without_match_leaves_the_optimizer_alone(self):
        model = make_model()
        opt = torch.optim.SGD(model.parameters(), lr=0.1)
        with pytest.raises(ParameterError, match=r"'3\.\*' matches no parameter"):
            clipwise.torch.attach(opt, clipwise.by_name({"3.*": CLIP}), model=model)
        assert not opt._optimizer_step_pre_hooks
