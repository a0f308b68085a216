"""The Hugging Face Trainer: the clip is a callback, and `max_grad_norm` is not applied any more.

A tiny GPT-2, made from a configuration, learns the bytes of this file; nothing is downloaded. The logs
have `grad_norm`, the norm before clipping, and `clipwise/norm_after` beside it.

    python examples/trainers/hf_trainer.py
"""

import tempfile
from pathlib import Path

from transformers import GPT2Config, GPT2LMHeadModel, PrinterCallback, Trainer, TrainingArguments, set_seed

import clipwise
from clipwise.integrations.transformers import ClipCallback

set_seed(0)
text = Path(__file__).read_bytes()
chunks = [list(text[i : i + 32]) for i in range(0, len(text) - 32, 8)]
config = GPT2Config(
    vocab_size=256, n_positions=32, n_embd=64, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=0
)
callback = ClipCallback(clipwise.clip_by_global_norm(0.5))

with tempfile.TemporaryDirectory() as folder:
    trainer = Trainer(
        GPT2LMHeadModel(config),
        TrainingArguments(
            folder,
            max_steps=40,
            per_device_train_batch_size=16,
            learning_rate=3e-3,
            logging_steps=10,
            save_strategy="no",
            use_cpu=True,
            report_to=[],
            disable_tqdm=True,
            dataloader_pin_memory=False,
        ),
        train_dataset=[{"input_ids": chunk, "labels": chunk} for chunk in chunks],
        callbacks=[callback],
    )
    trainer.remove_callback(PrinterCallback)  # the logs are printed below
    trainer.train()

for entry in trainer.state.log_history:
    if "grad_norm" in entry:
        print(
            f"step {entry['step']}  loss {float(entry['loss']):.2f}"
            f"  grad_norm {float(entry['grad_norm']):.2f} -> {entry['clipwise/norm_after']:.2f}"
        )
print(f"clipped {callback.clipper.clipped_steps} of {callback.clipper.steps} steps")
