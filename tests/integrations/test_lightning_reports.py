"""What Lightning's loggers, progress bar and checkpoints see, what thresholds hear, what is refused."""

import pytest
import torch

pytest.importorskip("lightning.pytorch")

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.plugins.precision import MixedPrecision

import clipwise
from clipwise.errors import ArgumentError, ConfigError, ParameterError, StateError
from clipwise.integrations.lightning import ClipCallback
from tests.integrations.lightning_runs import Automatic, InMemory, Two, fit, sgd, steps
from tests.integrations.policies import HEARS
from tests.torch.loops.reference_loops import (
    STEPS,
    THRESHOLD,
    assert_identical,
    backward,
    clip_globally,
    gradients_of,
    loss_of,
    make_model,
    norm_of,
)

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:lightning")
CLIP = clipwise.clip_by_global_norm(THRESHOLD)


def norms_by_hand():
    """The norms before and after clipping of each step."""
    model = make_model()
    opt, found = sgd(model.parameters()), []
    for step in range(STEPS):
        backward(model, step)
        norm = norm_of(gradients_of(model))
        clip_globally(model)
        found.append((norm, norm_of(gradients_of(model))))
        opt.step()
    return found


class Reads(Callback):
    """What the progress bar and other callbacks are given after each batch."""

    def __init__(self):
        self.bar, self.others = [], []

    def on_train_batch_end(self, trainer, *args):
        self.bar.append(dict(trainer.progress_bar_metrics))
        self.others.append(dict(trainer.callback_metrics))


class TestLogged:
    @pytest.mark.parametrize("every", [1, 2, 4])
    def test_at_the_steps_that_are_logged(self, every):
        logger = InMemory()
        fit(Automatic(), ClipCallback(CLIP), logger=logger, log_every_n_steps=every)
        by_hand = norms_by_hand()
        due = [step for step in range(STEPS) if (step + 1) % every == 0]
        assert [step for step, _ in logger.rows] == due
        for step, row in logger.rows:
            before, after = by_hand[step]
            assert row["clipwise/norm"] == pytest.approx(before, rel=1e-5)
            assert row["clipwise/norm_after"] == pytest.approx(after, rel=1e-5)
            assert row["clipwise/threshold"] == THRESHOLD
            assert row["clipwise/clip_fraction"] == float(before > THRESHOLD)
            assert row["clipwise/direction"] == pytest.approx(1.0)
            assert row["clipwise/nonfinite"] == 0

    @pytest.mark.parametrize(("every", "accumulate"), [(4, 1), (1, 4)])
    def test_nothing_is_read_in_between(self, every, accumulate, monkeypatch):
        read = []
        metrics = clipwise.ClipReport.metrics
        monkeypatch.setattr(
            clipwise.ClipReport, "metrics", lambda self, **kw: read.append(0) or metrics(self, **kw)
        )
        options = {"log_every_n_steps": every, "accumulate_grad_batches": accumulate}
        fit(Automatic(), ClipCallback(CLIP), logger=InMemory(), data=steps(8), **options)
        assert len(read) == 2

    def test_under_accumulation_once_a_real_step(self):
        logger = InMemory()
        fit(Automatic(), ClipCallback(CLIP), logger=logger, log_every_n_steps=1, accumulate_grad_batches=2)
        assert [step for step, row in logger.rows if "clipwise/norm" in row] == [0, 1, 2, 3, 4]

    def test_the_norm_is_on_the_progress_bar(self):
        reads = Reads()
        fit(Automatic(), ClipCallback(CLIP), reads, log_every_n_steps=1)
        norms = [one["clipwise/norm"] for one in reads.bar]
        assert norms == pytest.approx([before for before, _ in norms_by_hand()], rel=1e-5)
        assert set(reads.bar[-1]) == {"clipwise/norm"}
        assert "clipwise/threshold" in reads.others[-1]

    def test_names_of_several_optimizers(self):
        logger = InMemory()
        callback = ClipCallback(CLIP)
        fit(Two(), callback, logger=logger, log_every_n_steps=1)
        names = {name for _, row in logger.rows for name in row}
        for place, clipper in enumerate(callback.clippers):
            last = logger.rows[-1][1][f"clipwise/optimizer{place}/norm"]
            assert last == pytest.approx(float(clipper.report.norm))
        assert not {name for name in names if name.startswith("clipwise/norm")}

    def test_each_parameter_if_asked(self):
        logger = InMemory()
        callback = ClipCallback(CLIP, per_tensor=True)
        fit(Automatic(), callback, logger=logger, log_every_n_steps=1)
        for name, norm in callback.clipper.report.norms().items():
            assert logger.rows[-1][1][f"clipwise/norm/{name}"] == pytest.approx(norm)

    @pytest.mark.parametrize("options", [{"log": False}, {}], ids=["asked not to", "barebones"])
    def test_not(self, options):
        logger = InMemory()
        bare = (
            {"logger": logger, "log_every_n_steps": 1}
            if options
            else {"barebones": True, **dict.fromkeys(("logger", "enable_checkpointing"), False)}
        )
        callback = ClipCallback(CLIP, **options)
        fit(Automatic(), callback, **bare)
        assert not [row for _, row in logger.rows if any(name.startswith("clipwise") for name in row)]
        assert callback.clipper.steps == STEPS


class Heard(Callback):
    def __init__(self, callback, place=0):
        self.callback, self.place, self.thresholds = callback, place, []

    def on_train_batch_end(self, trainer, *args):
        report = self.callback.clippers[self.place].report
        if report is not None:
            self.thresholds.append(float(report.threshold))


class Tells(Automatic):
    """Remembers its losses."""

    def __init__(self, *args):
        super().__init__(*args)
        self.losses = []

    def training_step(self, batch, index):
        loss = super().training_step(batch, index)
        self.losses.append(float(loss.detach()))
        return loss


class TestLoss:
    """Heard as the training step returned it, whatever is done to it for the backward pass."""

    @pytest.mark.parametrize(
        "options",
        [
            {},
            {"precision": "bf16-mixed"},
            {"plugins": MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=2.0**10))},
        ],
        ids=["32", "bf16-mixed", "16-mixed"],
    )
    @pytest.mark.parametrize("fused", [False, True])
    def test_of_each_step(self, options, fused):
        module = Tells(lambda p: torch.optim.Adam(p, fused=fused))
        callback = ClipCallback(HEARS)
        heard = Heard(callback)
        fit(module, callback, heard, **options)
        assert len(module.losses) == STEPS
        assert heard.thresholds == pytest.approx(module.losses, rel=1e-2 if options else 1e-6)

    def test_under_accumulation_it_is_the_mean(self):
        module, callback = Tells(), ClipCallback(HEARS)
        heard = Heard(callback)
        fit(module, callback, heard, accumulate_grad_batches=3)
        means = [sum(module.losses[i : i + 3]) / 3 for i in range(0, STEPS, 3)]
        assert heard.thresholds[::3] == pytest.approx(means)

    def test_each_optimizer_hears_its_own(self):
        module, callback = Two(), ClipCallback(HEARS)
        heard = [Heard(callback, place) for place in (0, 1)]
        losses = ([], [])
        step = module.manual_backward
        order = iter(range(2 * STEPS))
        module.manual_backward = lambda loss: (
            losses[next(order) % 2].append(float(loss.detach())),
            step(loss),
        )
        fit(module, callback, *heard)
        for one, theirs in zip(heard, losses, strict=True):
            assert one.thresholds == pytest.approx(theirs)

    def test_two_that_step_after_one_backward_pass_hear_the_same(self):
        class Shared(Two):
            def training_step(self, batch, _):
                for opt in self.optimizers():
                    opt.zero_grad()
                loss = loss_of(self.first, int(batch)) + loss_of(self.second, int(batch))
                self.manual_backward(loss)
                for opt in self.optimizers():
                    opt.step()

        callback = ClipCallback(HEARS)
        heard = [Heard(callback, place) for place in (0, 1)]
        fit(Shared(), callback, *heard)
        assert len(heard[0].thresholds) == STEPS
        assert heard[0].thresholds == heard[1].thresholds

    def test_of_lbfgs_that_of_each_evaluation(self):
        module = Tells(lambda p: torch.optim.LBFGS(p, lr=0.1, max_iter=3))
        callback = ClipCallback(HEARS)
        fit(module, callback)
        assert float(callback.clipper.report.threshold) == pytest.approx(module.losses[-1])

    def test_a_policy_that_reduces_on_instability(self):
        class Jumps(Automatic):
            def training_step(self, batch, index):
                return super().training_step(batch, index) * (1000.0 if index > 20 else 1.0)

        policy = clipwise.thresholds.reduce_on_instability(1.0, 0.5, patience=1, window=50)
        callback = ClipCallback(clipwise.Clip(policy))
        fit(Jumps(), callback, data=steps(25))
        assert float(callback.clipper.report.threshold) < 1.0


CLIPS = {
    "autoclip": clipwise.autoclip(60),
    "zclip": clipwise.zclip(0.1, decay=0.5, warmup=3),
    "adagc": clipwise.adagc(warmup=3),
    "instability": clipwise.Clip(clipwise.thresholds.reduce_on_instability(0.05, patience=1)),
}


class TestCheckpoints:
    @pytest.mark.parametrize("clip", CLIPS)
    def test_a_resumed_run_is_bit_for_bit_the_one_that_never_stopped(self, clip, tmp_path):
        through = Automatic()
        never_stopped = ClipCallback(CLIPS[clip])
        fit(through, never_stopped, max_epochs=4)

        saver = ModelCheckpoint(tmp_path, save_last=True)
        fit(Automatic(), ClipCallback(CLIPS[clip]), saver, max_epochs=2, enable_checkpointing=True)
        path = tmp_path / "last.ckpt"
        torch.load(path, weights_only=True)  # holds nothing that this would refuse
        resumed, callback = Automatic(seed=1), ClipCallback(CLIPS[clip])
        fit(resumed, callback, max_epochs=4, ckpt_path=path)
        assert_identical(through, resumed)
        assert callback.clipper.steps == never_stopped.clipper.steps == 4 * STEPS
        assert callback.clipper.clipped_steps == never_stopped.clipper.clipped_steps

    def test_with_several_optimizers(self, tmp_path):
        clips = [clipwise.autoclip(60), None]
        through = Two()
        fit(through, ClipCallback(clips), max_epochs=2)
        trainer = fit(Two(), ClipCallback(clips), max_epochs=1)
        trainer.save_checkpoint(tmp_path / "one.ckpt")  # after the fit
        resumed = Two()
        fit(resumed, ClipCallback(clips), max_epochs=2, ckpt_path=tmp_path / "one.ckpt")
        assert_identical(through, resumed)
        with pytest.raises(StateError, match="of other optimizers"):
            fit(Two(), ClipCallback(CLIP), max_epochs=2, ckpt_path=tmp_path / "one.ckpt")

    def test_the_state_matters(self, tmp_path):
        """Without it the run goes another way, and that is said."""
        through = Automatic()
        fit(through, ClipCallback(clipwise.autoclip(60)), max_epochs=4)
        fit(Automatic(), max_epochs=2).save_checkpoint(tmp_path / "without.ckpt")
        resumed = Automatic()
        with pytest.warns(UserWarning, match="no state of ClipCallback: its thresholds begin afresh"):
            fit(
                resumed,
                ClipCallback(clipwise.autoclip(60)),
                max_epochs=4,
                ckpt_path=tmp_path / "without.ckpt",
            )
        with pytest.raises(AssertionError):
            assert_identical(through, resumed)

    def test_of_another_kind_of_clip(self, tmp_path):
        fit(Automatic(), ClipCallback(clipwise.autoclip(60))).save_checkpoint(tmp_path / "one.ckpt")
        with pytest.raises(StateError):
            fit(Automatic(), ClipCallback(clipwise.zclip()), max_epochs=2, ckpt_path=tmp_path / "one.ckpt")

    def test_a_validation_leaves_no_state_behind(self, tmp_path):
        class Validates(Automatic):
            def validation_step(self, batch, _):
                pass

        trainer = fit(Validates(), ClipCallback(clipwise.autoclip(60)))
        trainer.save_checkpoint(tmp_path / "one.ckpt")
        callback = ClipCallback(clipwise.autoclip(60))
        other = pl.Trainer(
            accelerator="cpu", max_epochs=1, callbacks=[callback], logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        module = Validates()
        other.validate(module, steps(), ckpt_path=tmp_path / "one.ckpt", verbose=False)
        other.fit(module, steps())
        assert callback.clipper.steps == STEPS


class ByItself(Automatic):
    def configure_gradient_clipping(self, optimizer, *args, **kwargs):
        self.clip_gradients(optimizer, gradient_clip_val=0.5, gradient_clip_algorithm="norm")


class WithoutOptimizer(Automatic):
    def configure_optimizers(self):
        return None


class TestRefused:
    @pytest.mark.parametrize("value", [0.5, 1])
    def test_a_trainer_that_clips_too(self, value):
        module = Automatic()
        with pytest.raises(ArgumentError, match=rf"gradient_clip_val={value}.*clip_by_global_norm\(0.05\)"):
            fit(module, ClipCallback(CLIP), gradient_clip_val=value)
        assert_identical(module.net, make_model())

    @pytest.mark.filterwarnings("error:the loop clips too")
    def test_unless_the_weights_only_are_clipped(self):
        callback = ClipCallback(weights=clipwise.clip_by_value(0.01))
        fit(Automatic(), callback, gradient_clip_val=0.5)
        assert callback.clipper.weights.steps == STEPS

    @pytest.mark.parametrize("value", [None, 0, 0.0])
    def test_not_one_that_does_not(self, value):
        fit(Automatic(), ClipCallback(CLIP), gradient_clip_val=value)

    def test_a_module_that_clips_by_itself_is_told(self):
        with pytest.warns(UserWarning, match=r"the loop clips too: torch.nn.utils.clip_grad_norm_ to 0.5"):
            fit(ByItself(), ClipCallback(CLIP))

    def test_no_optimizer(self):
        with pytest.raises(ArgumentError, match="configure_optimizers of WithoutOptimizer returns no"):
            fit(WithoutOptimizer(), ClipCallback(CLIP))

    def test_a_pattern_that_matches_nothing(self):
        module, callback = Automatic(), ClipCallback(clipwise.by_name({"decoder.*": CLIP}))
        with pytest.raises(ParameterError, match=r"decoder\.\*"):
            fit(module, callback)
        assert_identical(module.net, make_model())
        assert not [hook for opt in [module.trainer.optimizers[0]] for hook in opt._optimizer_step_pre_hooks]

    @pytest.mark.parametrize("clips", [[CLIP], [CLIP] * 3])
    def test_another_number_of_optimizers(self, clips):
        with pytest.raises(ArgumentError, match=f"{len(clips)} clips are listed.*Two returns 2 optimizers"):
            fit(Two(), ClipCallback(clips))

    @pytest.mark.parametrize(
        ("arguments", "options", "error", "message"),
        [
            ((), {}, ArgumentError, "expected a clip"),
            (([],), {}, ArgumentError, "expected a clip"),
            (([None, None],), {}, ArgumentError, "expected a clip"),
            ((1.0,), {}, ArgumentError, "expected a clip .* got 1.0"),
            (("clip_by_global_nrom(1.0)",), {}, ConfigError, "clip_by_global_norm"),
            ((CLIP,), {"nonfinite": "ignore"}, ArgumentError, "nonfinite must be one of .* got 'ignore'"),
            ((CLIP,), {"weights": 3}, ArgumentError, "expected a clip .* got 3"),
            (([CLIP] * 2,), {"weights": [CLIP] * 3}, ArgumentError, "2 clips and 3 clips of weights"),
            (
                (CLIP,),
                {"weights": [None], "updates": [CLIP] * 2},
                ArgumentError,
                "1 .* and 2 clips of updates",
            ),
            ((), {"updates": "skip_spikes()"}, ArgumentError, "after a step that has happened"),
        ],
    )
    def test_at_once(self, arguments, options, error, message):
        with pytest.raises(error, match=message):
            ClipCallback(*arguments, **options)
