"""TRL's trainers derive from Hugging Face's: its supervised fine-tuning, with a tokenizer made by hand."""

import pytest
import torch

pytest.importorskip("trl", reason="trl is not installed")
pytest.importorskip("datasets", reason="datasets is not installed")

from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from trl import SFTConfig, SFTTrainer

import clipwise
from clipwise.integrations.transformers import ClipCallback
from tests.integrations.policies import HEARS
from tests.integrations.transformers_runs import (
    BATCH,
    RATE,
    THRESHOLD,
    Bytes,
    clip_globally,
    logged,
    make_gpt2,
)
from tests.torch.loops.reference_loops import assert_same, gradients_of, norm_of

STEPS = 4


def tokenizer():
    """One token a byte."""
    letters = {letter: place for place, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    made = Tokenizer(models.BPE(vocab=letters, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    first = next(iter(letters))
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token=first, pad_token=first)


def trainer_for(folder, callback):
    rows = [Bytes()[place] for place in range(STEPS * BATCH)]
    return SFTTrainer(
        model=make_gpt2(),
        args=SFTConfig(
            output_dir=str(folder),
            max_steps=STEPS,
            per_device_train_batch_size=BATCH,
            use_cpu=True,
            bf16=False,
            report_to=[],
            disable_tqdm=True,
            save_strategy="no",
            logging_steps=1,
            optim="sgd",
            learning_rate=RATE,
            lr_scheduler_type="constant",
            dataloader_pin_memory=False,
            train_sampling_strategy="sequential",
            gradient_checkpointing=False,
        ),
        train_dataset=Dataset.from_dict({name: [row[name].tolist() for row in rows] for name in rows[0]}),
        processing_class=tokenizer(),
        callbacks=[callback],
    )


def test_supervised_fine_tuning(tmp_path):
    callback = ClipCallback(clipwise.clip_by_global_norm(THRESHOLD))
    trainer = trainer_for(tmp_path, callback)
    trainer.train()
    reference, norms = make_gpt2(), []
    opt = torch.optim.SGD(reference.parameters(), lr=RATE)
    for step in range(STEPS):
        ids = torch.stack([Bytes()[place]["input_ids"] for place in range(step * BATCH, (step + 1) * BATCH)])
        opt.zero_grad()
        logits = reference(input_ids=ids).logits
        torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()
        norms.append(norm_of(gradients_of(reference)))
        clip_globally(reference)
        opt.step()
    assert min(norms) < THRESHOLD < max(norms)
    assert_same(trainer.model, reference, rtol=1e-5, atol=2e-6)
    assert logged(trainer, "grad_norm") == pytest.approx(norms, rel=1e-5)
    assert logged(trainer, "clipwise/norm_after") == pytest.approx(
        [min(n, THRESHOLD) for n in norms], rel=1e-5
    )
    assert callback.clipper.steps == STEPS


def test_the_loss_that_a_threshold_hears(tmp_path):
    trainer = trainer_for(tmp_path, ClipCallback(HEARS))
    trainer.train()
    assert logged(trainer, "clipwise/threshold") == pytest.approx(logged(trainer, "loss"), rel=1e-6)
