"""Hugging Face's Trainer for real, on the CPU, training a small GPT-2, against a loop written out by hand."""

import copy
import functools
import math
import pickle

import pytest
import torch

pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from transformers import Trainer, TrainerCallback

import clipwise
from clipwise.errors import ArgumentError, ConfigError, ParameterError, StateError
from clipwise.integrations.transformers import ClipCallback
from tests.depth import brief
from tests.integrations.policies import HEARS
from tests.integrations.transformers_runs import (
    STEPS,
    THRESHOLD,
    logged,
    make_gpt2,
    train_by_hand,
    trainer_for,
)
from tests.torch.loops.left_out import Lomo, hand_over
from tests.torch.loops.reference_loops import BoundedSGD, ClipAtPercentile, assert_identical, assert_same

CLIP = clipwise.clip_by_global_norm(THRESHOLD)
close = functools.partial(assert_same, rtol=1e-5, atol=2e-6)
fused = functools.partial(torch.optim.AdamW, fused=True)


def nothing(model):
    """Clips nothing."""


class TestTraining:
    @pytest.mark.parametrize("max_grad_norm", [1.0, 0.0])
    def test_max_grad_norm_is_not_applied_too(self, max_grad_norm, tmp_path):
        callback = ClipCallback(CLIP)
        trainer = trainer_for(tmp_path, callback, max_grad_norm=max_grad_norm)
        trainer.train()
        reference, rows = train_by_hand()
        close(trainer.model, reference)
        before, after, losses = map(list, zip(*rows, strict=True))
        clipped = [norm > THRESHOLD for norm in before]
        assert 0 < sum(clipped) < STEPS
        assert max(after) > 1.0  # where max_grad_norm would have clipped
        assert logged(trainer, "grad_norm") == pytest.approx(before, rel=1e-5)
        assert logged(trainer, "clipwise/norm") == pytest.approx(before, rel=1e-5)
        assert logged(trainer, "clipwise/norm_after") == pytest.approx(after, rel=1e-5)
        assert logged(trainer, "clipwise/threshold") == [THRESHOLD] * STEPS
        assert logged(trainer, "clipwise/clip_fraction") == clipped
        assert logged(trainer, "loss") == pytest.approx(losses, rel=1e-5)
        assert (callback.clipper.steps, callback.clipper.clipped_steps) == (STEPS, sum(clipped))
        assert callback.clipper.report.names[0] == "transformer.wte.weight"

    def test_without_the_callback_the_trainer_clips(self, tmp_path):
        """That the comparison would notice."""
        trainer = trainer_for(tmp_path)
        trainer.train()
        with pytest.raises(AssertionError):
            close(trainer.model, train_by_hand()[0])

    def test_fused_adamw_as_by_default(self, tmp_path):
        trainer = trainer_for(tmp_path, ClipCallback(CLIP), optim="adamw_torch_fused")
        trainer.train()
        assert all(group["fused"] for group in trainer.optimizer.param_groups)
        close(trainer.model, train_by_hand(kind=fused)[0], rtol=1e-4, atol=1e-4)

    def test_bf16(self, tmp_path):
        trainer = trainer_for(tmp_path, ClipCallback(CLIP), bf16=True)
        trainer.train()
        reference, rows = train_by_hand(half=torch.bfloat16)
        close(trainer.model, reference, rtol=1e-3, atol=1e-3)
        assert logged(trainer, "grad_norm") == pytest.approx([row[0] for row in rows], rel=1e-2)

    def test_fp16(self, tmp_path):
        """Accelerate itself wants a GPU for it: here it is given the scaler of the CPU."""

        def scaler():
            return torch.amp.GradScaler("cpu", init_scale=2.0**20, growth_interval=3)

        callback = ClipCallback(CLIP)
        trainer = trainer_for(tmp_path, callback)
        accelerator = trainer.accelerator
        accelerator.scaler, accelerator.native_amp, accelerator.state._mixed_precision = (
            scaler(),
            True,
            "fp16",
        )
        trainer.train()
        reference, rows = train_by_hand(half=torch.half, scaler=scaler())
        close(trainer.model, reference, rtol=1e-3, atol=1e-3)
        before = [row[0] for row in rows]
        taken = [norm for norm in before if math.isfinite(norm)]
        assert max(taken) > THRESHOLD
        assert 0 < len(taken) < STEPS
        norms = [norm if math.isfinite(norm) else -1.0 for norm in logged(trainer, "grad_norm")]
        assert norms == pytest.approx([n if math.isfinite(n) else -1.0 for n in before], rel=1e-2)
        # A step that the scaler left out has no report.
        reported = [row["clipwise/norm"] for row in trainer.state.log_history if "clipwise/norm" in row]
        assert reported == pytest.approx(taken, rel=1e-2)
        assert callback.clipper.clipped_steps == sum(norm > THRESHOLD for norm in taken)

    @pytest.mark.parametrize("accumulate", [2, 3])
    def test_accumulation(self, accumulate, tmp_path):
        trainer = trainer_for(tmp_path, ClipCallback(CLIP), gradient_accumulation_steps=accumulate)
        trainer.train()
        reference, rows = train_by_hand(accumulate=accumulate)
        close(trainer.model, reference)
        assert logged(trainer, "clipwise/norm_after") == pytest.approx([row[1] for row in rows], rel=1e-5)

    def test_autoclip(self, tmp_path):
        trainer = trainer_for(tmp_path, ClipCallback("autoclip(60)"))
        trainer.train()
        close(trainer.model, train_by_hand(ClipAtPercentile(60))[0])

    def test_the_weights_alone(self, tmp_path):
        """Then max_grad_norm stays in force."""
        trainer = trainer_for(
            tmp_path, ClipCallback(weights=clipwise.clip_by_value(1e6)), max_grad_norm=THRESHOLD
        )
        trainer.train()
        close(trainer.model, train_by_hand()[0], rtol=1e-4, atol=1e-5)
        bounded = trainer_for(tmp_path, ClipCallback(weights=clipwise.clip_by_value(0.01)))
        bounded.train()
        assert max(float(p.detach().abs().max()) for p in bounded.model.parameters()) <= 0.01

    def test_the_updates_alone(self, tmp_path):
        """Then max_grad_norm stays in force; the learning rate is that of the Trainer's schedule."""
        callback = ClipCallback(updates=clipwise.clip_by_norm(BoundedSGD.LIMIT))
        trainer = trainer_for(tmp_path, callback, max_grad_norm=THRESHOLD)
        trainer.train()
        close(trainer.model, train_by_hand(kind=BoundedSGD)[0], rtol=1e-4, atol=1e-5)
        assert callback.clipper.updates.clipped_steps > 0

    @pytest.mark.parametrize("bad", [math.nan, math.inf])
    @pytest.mark.parametrize("optim", ["sgd", "adamw_torch_fused"])
    def test_one_bad_gradient(self, bad, optim, tmp_path):
        """The Trainer's measuring leaves the others alone, so that it can be named, and only it is."""

        class Spoils(TrainerCallback):
            def on_step_begin(self, args, state, control, model=None, **kwargs):
                weight = model.transformer.h[1].mlp.c_fc.weight
                if state.global_step == 3:
                    self.before = copy.deepcopy(model)
                    self.handle = weight.register_hook(lambda gradient: torch.full_like(gradient, bad))

            def on_step_end(self, args, state, control, model=None, **kwargs):
                if state.global_step == 4:
                    self.handle.remove()
                    assert_identical(self.before, model)

        callback, spoils = ClipCallback(CLIP), Spoils()
        trainer = trainer_for(
            tmp_path, callback, spoils, optim=optim, max_steps=4, logging_nan_inf_filter=False
        )
        trainer.train()
        assert callback.clipper.skipped_steps == 1
        assert int(callback.clipper.report.nonfinite) == 1
        assert callback.clipper.report.worst == "transformer.h.1.mlp.c_fc.weight"
        assert not math.isfinite(logged(trainer, "grad_norm")[-1])


class TestLogs:
    def test_as_often_as_the_trainer_logs(self, tmp_path):
        trainer = trainer_for(tmp_path, ClipCallback(CLIP), logging_steps=3)
        trainer.train()
        rows = [row[1] for row in train_by_hand()[1]]
        assert logged(trainer, "clipwise/norm_after") == pytest.approx([rows[2], rows[5]], rel=1e-5)
        assert "clipwise/norm" not in trainer.state.log_history[-1]  # the summary

    def test_whoever_reports_is_told(self, tmp_path):
        """Those that stand before the callback, too, as the Trainer's own reporters do."""

        class Reporter(TrainerCallback):
            def __init__(self):
                self.rows = []

            def on_log(self, args, state, control, logs=None, **kwargs):
                self.rows.append(dict(logs))

        first, last = Reporter(), Reporter()
        trainer_for(tmp_path, first, ClipCallback(CLIP), last).train()
        for reporter in (first, last):
            assert sum("clipwise/clip_fraction" in row for row in reporter.rows) == STEPS

    def test_each_parameter_if_asked(self, tmp_path):
        trainer = trainer_for(tmp_path, ClipCallback(CLIP, per_tensor=True))
        trainer.train()
        norms = [
            [row[f"clipwise/norm/{name}"] for name, _ in trainer.model.named_parameters()]
            for row in trainer.state.log_history[:-1]
        ]
        joint = [math.sqrt(sum(norm**2 for norm in row)) for row in norms]
        assert joint == pytest.approx(logged(trainer, "grad_norm"), rel=1e-5)

    def test_not_if_asked_not_to(self, tmp_path):
        trainer = trainer_for(tmp_path, ClipCallback(CLIP, log=False))
        trainer.train()
        assert not any(name.startswith("clipwise") for row in trainer.state.log_history for name in row)
        assert len(logged(trainer, "grad_norm")) == STEPS

    @pytest.mark.parametrize("accumulate", [1, 2])
    def test_the_loss_that_a_threshold_hears_is_the_one_that_is_logged(self, accumulate, tmp_path):
        callback = ClipCallback(HEARS)
        trainer = trainer_for(tmp_path, callback, gradient_accumulation_steps=accumulate)
        trainer.train()
        assert logged(trainer, "clipwise/threshold") == pytest.approx(logged(trainer, "loss"), rel=1e-6)

    def test_the_loss_of_a_trainer_that_computes_its_own(self, tmp_path):
        class Doubles(Trainer):
            def compute_loss(self, *args, **kwargs):
                return 2 * super().compute_loss(*args, **kwargs)

        trainer = trainer_for(tmp_path, ClipCallback(HEARS), kind=Doubles)
        trainer.train()
        assert logged(trainer, "clipwise/threshold") == pytest.approx(logged(trainer, "loss"), rel=1e-6)
        assert logged(trainer, "loss")[0] == pytest.approx(2 * train_by_hand()[1][0][2], rel=1e-5)


CLIPS = {
    "autoclip": clipwise.autoclip(60),
    "zclip": clipwise.zclip(0.1, decay=0.5, warmup=3),
    "adagc": clipwise.adagc(warmup=2),
    "instability": clipwise.Clip(clipwise.thresholds.reduce_on_instability(1.5, patience=1)),
}


class TestCheckpoints:
    @pytest.mark.parametrize("clip", brief(CLIPS, "autoclip", "adagc"))
    def test_a_resumed_run_is_bit_for_bit_the_one_that_never_stopped(self, clip, tmp_path):
        saving = {"save_strategy": "steps", "save_steps": 4}
        never_stopped = ClipCallback(CLIPS[clip])
        through = trainer_for(tmp_path, never_stopped, **saving)
        through.train()
        saved = torch.load(tmp_path / "checkpoint-4" / "clipwise.pt", weights_only=True)
        assert saved["steps"] == 4

        callback = ClipCallback(CLIPS[clip])
        resumed = trainer_for(tmp_path / "other", callback, model=make_gpt2(1), **saving)
        resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
        assert_identical(through.model, resumed.model)
        assert callback.clipper.steps == never_stopped.clipper.steps == STEPS
        assert logged(resumed, "clipwise/threshold") == logged(through, "clipwise/threshold")

    def test_the_last_one_by_itself(self, tmp_path):
        saving = {"save_strategy": "steps", "save_steps": 4}
        through = trainer_for(tmp_path / "through", ClipCallback(clipwise.autoclip(60)), **saving)
        through.train()

        class Stops(TrainerCallback):
            def on_step_end(self, args, state, control, **kwargs):
                control.should_training_stop = state.global_step == 6

        stopped = trainer_for(tmp_path, ClipCallback(clipwise.autoclip(60)), Stops(), **saving)
        stopped.train()
        resumed = trainer_for(tmp_path, ClipCallback(clipwise.autoclip(60)), model=make_gpt2(1), **saving)
        resumed.train(resume_from_checkpoint=True)
        assert_identical(through.model, resumed.model)

    def test_the_state_matters(self, tmp_path):
        saving = {"save_strategy": "steps", "save_steps": 4}
        through = trainer_for(tmp_path, ClipCallback(clipwise.autoclip(60)), **saving)
        through.train()
        (tmp_path / "checkpoint-4" / "clipwise.pt").unlink()
        resumed = trainer_for(tmp_path, ClipCallback(clipwise.autoclip(60)))
        with pytest.warns(UserWarning, match=r"has no clipwise\.pt: the thresholds begin afresh"):
            resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
        with pytest.raises(AssertionError):
            assert_identical(through.model, resumed.model)

    def test_of_another_kind_of_clip(self, tmp_path):
        saving = {"save_strategy": "steps", "save_steps": 4}
        trainer_for(tmp_path, ClipCallback(clipwise.autoclip(60)), **saving).train()
        other = trainer_for(tmp_path, ClipCallback(clipwise.zclip()))
        with pytest.raises(StateError):
            other.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
        assert "log" not in vars(other)
        assert not other.optimizer.optimizer._optimizer_step_pre_hooks

    def test_nothing_is_written_beside_a_model_alone(self, tmp_path):
        trainer_for(
            tmp_path, ClipCallback(CLIP), save_strategy="steps", save_steps=4, save_only_model=True
        ).train()
        assert not list(tmp_path.rglob("clipwise.pt*"))


def as_it_was(trainer):
    assert not {"log", "training_step"} & vars(trainer).keys()
    assert "clip_grad_norm_" not in vars(trainer.accelerator)
    optimizer = trainer.optimizer.optimizer
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks


class TestTheTrainer:
    def test_is_left_as_it_was(self, tmp_path):
        trainer = trainer_for(tmp_path, ClipCallback(HEARS), max_grad_norm=0.7)
        with pytest.warns(UserWarning, match="max_grad_norm"):
            trainer.train()
        as_it_was(trainer)
        assert trainer.args.max_grad_norm == 0.7

    def test_an_attribute_of_its_own_is_put_back(self, tmp_path):
        trainer = trainer_for(tmp_path, ClipCallback(CLIP))
        seen = []
        mine = functools.partial(lambda log, *args: (seen.append(args[0]), log(*args)), trainer.log)
        trainer.log = mine
        trainer.train()
        assert trainer.log is mine
        assert "clipwise/norm" in seen[0]

    def test_trains_twice(self, tmp_path):
        """A callback that is added late, and a training that is broken off between two."""

        class Fails(TrainerCallback):
            fails = False

            def on_step_end(self, args, state, control, **kwargs):
                if self.fails and state.global_step == 2:
                    raise RuntimeError("on purpose")

        callback, fails = ClipCallback(CLIP), Fails()
        trainer = trainer_for(tmp_path, fails)
        trainer.add_callback(callback)
        trainer.train()
        reference, _ = train_by_hand()
        close(trainer.model, reference)
        fails.fails = True
        with pytest.raises(RuntimeError, match="on purpose"):
            trainer.train()
        fails.fails = False
        trainer.train()
        assert callback.clipper.steps == STEPS
        as_it_was(trainer)

    def test_says_that_max_grad_norm_is_not_applied(self, tmp_path):
        trainer = trainer_for(tmp_path, ClipCallback(CLIP), max_grad_norm=0.5)
        with pytest.warns(
            UserWarning, match=r"max_grad_norm=0.5 is not applied: .* clip_by_global_norm\(1.5\)"
        ):
            trainer.train()
        close(trainer.model, train_by_hand()[0])

    @pytest.mark.filterwarnings("error")
    def test_says_nothing_of_the_default(self, tmp_path):
        trainer_for(tmp_path, ClipCallback(CLIP)).train()

    def test_one_that_clips_by_itself_is_told(self, tmp_path):
        class Clips(Trainer):
            def training_step(self, model, *args):
                loss = super().training_step(model, *args)
                torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
                return loss

        trainer = trainer_for(tmp_path, ClipCallback(CLIP), kind=Clips)
        with pytest.warns(UserWarning, match=r"the loop clips too: torch.nn.utils.clip_grad_norm_ to 0.5"):
            trainer.train()


class TestRefused:
    @pytest.mark.parametrize(
        ("arguments", "options", "error", "message"),
        [
            ((), {}, ArgumentError, "expected a clip"),
            ((1.0,), {}, ArgumentError, "expected a clip .* got 1.0"),
            (([CLIP],), {}, ArgumentError, "a Trainer has one optimizer"),
            (("clip_by_global_nrom(1.0)",), {}, ConfigError, "clip_by_global_norm"),
            ((CLIP,), {"nonfinite": "ignore"}, ArgumentError, "nonfinite must be one of .* got 'ignore'"),
            ((CLIP,), {"weights": 3}, ArgumentError, "expected a clip .* got 3"),
            ((), {"updates": "skip_spikes()"}, ArgumentError, "after a step that has happened"),
        ],
    )
    def test_at_once(self, arguments, options, error, message):
        with pytest.raises(error, match=message):
            ClipCallback(*arguments, **options)

    def test_a_pattern_that_matches_nothing(self, tmp_path):
        trainer = trainer_for(tmp_path, ClipCallback(clipwise.by_name({"decoder.*": CLIP})))
        with pytest.raises(ParameterError, match=r"decoder\.\*"):
            trainer.train()
        assert_identical(trainer.model, make_gpt2())
        as_it_was(trainer)

    def test_two_of_them(self, tmp_path):
        trainer = trainer_for(tmp_path, ClipCallback(CLIP), ClipCallback(CLIP))
        with pytest.raises(ArgumentError, match="attached to this optimizer already"):
            trainer.train()

    def test_outside_of_a_training(self, tmp_path):
        trainer = trainer_for(tmp_path)
        trainer.create_optimizer()
        with pytest.raises(ArgumentError, match="no Trainer is training here"):
            ClipCallback(CLIP).on_train_begin(
                trainer.args, trainer.state, trainer.control, model=trainer.model, optimizer=trainer.optimizer
            )


class TestAClipThatNeverActs:
    def test_lomo_is_refused(self, tmp_path):
        model = make_gpt2()
        trainer = trainer_for(tmp_path, ClipCallback(CLIP), model=model)
        trainer.optimizer = Lomo(model, lr=0.1)
        with pytest.raises(ArgumentError, match=r"Lomo moves the weights in its fused_backward"):
            trainer.train()

    def test_steps_that_are_not_seen_are_said_with_the_first_logs(self, tmp_path):
        model = make_gpt2()
        trainer = trainer_for(tmp_path, ClipCallback(CLIP), model=model, logging_steps=2, max_steps=4)
        trainer.optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        hand_over(trainer.optimizer)
        with pytest.warns(UserWarning, match="attached to SGD, saw no gradient, and yet") as caught:
            trainer.train()
        assert sum("saw no gradient" in str(warning.message) for warning in caught) == 1


def test_a_copy_in_the_middle_of_a_training_is_a_record(tmp_path):
    class Copying(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            self.copies = [copy.copy(callback), copy.deepcopy(callback), pickle.loads(pickle.dumps(callback))]
            for one in self.copies:
                one.on_train_end(args, state, control)

    callback, copying = ClipCallback(CLIP), Copying()
    trainer = trainer_for(tmp_path, callback, copying, max_steps=3)
    trainer.train()
    assert [one.clipper.steps for one in (callback, *copying.copies)] == [3] * 4
    for one in copying.copies:
        again = trainer_for(tmp_path, one, max_steps=2)
        again.train()
        assert (one.clipper.steps, callback.clipper.steps) == (2, 3)
        assert len(logged(again, "clipwise/norm")) == 2
