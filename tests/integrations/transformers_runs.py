"""A small GPT-2 from its configuration, on bytes of text that is at hand, and its training by hand."""

import math
import pathlib

import torch
from torch.utils.data import Dataset
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

from tests.torch.loops import reference_loops
from tests.torch.loops.reference_loops import gradients_of, norm_of

TEXT = (pathlib.Path(__file__).parents[2] / "README.md").read_bytes()
LENGTH, BATCH, STEPS = 16, 4, 8
RATE, WARMUP, DECAY = 0.3, 2, 0.01
THRESHOLD = 1.5


def clip_globally(model, threshold=THRESHOLD):
    return reference_loops.clip_globally(model, threshold)


class Bytes(Dataset):
    """Piece by piece of the text; every third batch is a single letter, easier and so of another norm."""

    def __len__(self):
        return 4 * STEPS * BATCH

    def __getitem__(self, place):
        piece = TEXT[place * LENGTH : (place + 1) * LENGTH]
        ids = torch.tensor(list(piece if (place // BATCH) % 3 else piece[:1] * LENGTH))
        labels = ids.clone()
        labels[0] = -100  # nothing comes before it that it could be guessed from
        return {"input_ids": ids, "labels": labels}


def make_gpt2(seed=0):
    torch.manual_seed(seed)
    sizes = {"vocab_size": 256, "n_positions": LENGTH, "n_embd": 16, "n_layer": 2, "n_head": 2}
    still = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    return GPT2LMHeadModel(GPT2Config(**sizes, **still, bos_token_id=0, eos_token_id=0))


class Scale(torch.nn.Module):
    """A parameter of its own for what comes out of a module."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(16))


def with_scale(model):
    """The same model with one more parameter, as an adapter that was added later."""
    scale = model.transformer.scale_norm = Scale()  # a norm is not decayed
    model.transformer.ln_f.register_forward_hook(lambda module, inputs, output: output * scale.weight)
    return model


def arguments(folder, **options):
    return TrainingArguments(
        **{
            "output_dir": str(folder),
            "max_steps": STEPS,
            "per_device_train_batch_size": BATCH,
            "use_cpu": True,
            "report_to": [],
            "disable_tqdm": True,
            "save_strategy": "no",
            "logging_steps": 1,
            "dataloader_pin_memory": False,
            "train_sampling_strategy": "sequential",
            "optim": "sgd",
            "learning_rate": RATE,
            "weight_decay": DECAY,
            "lr_scheduler_type": "linear",
            "warmup_steps": WARMUP,
            **options,
        }
    )


def trainer_for(folder, *callbacks, model=None, kind=Trainer, **options):
    return kind(
        model=make_gpt2() if model is None else model,
        args=arguments(folder, **options),
        train_dataset=Bytes(),
        callbacks=list(callbacks),
    )


def logged(trainer, name):
    return [row[name] for row in trainer.state.log_history if "loss" in row]


def batch_by_hand(number):
    pieces = [Bytes()[place]["input_ids"] for place in range(number * BATCH, (number + 1) * BATCH)]
    return torch.stack(pieces)


def train_by_hand(clip=clip_globally, kind=torch.optim.SGD, accumulate=1, half=None, scaler=None, model=None):
    """Returns the model, and of each step the norms before and after clipping and the loss."""
    scaler = scaler or torch.amp.GradScaler("cpu", enabled=False)
    model = make_gpt2() if model is None else model
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim == 1]
    opt = kind([{"params": decayed, "weight_decay": DECAY}, {"params": others, "weight_decay": 0.0}], lr=RATE)
    rows, taken = [], 0  # the Trainer's schedule waits for steps that the scaler leaves out
    for step in range(STEPS):
        rate = taken / WARMUP if taken < WARMUP else (STEPS - taken) / (STEPS - WARMUP)
        for group in opt.param_groups:
            group["lr"] = RATE * rate
        opt.zero_grad()
        total = 0.0
        for micro in range(accumulate):
            ids = batch_by_hand(step * accumulate + micro)
            with torch.autocast("cpu", dtype=half, enabled=half is not None):
                logits = model(input_ids=ids).logits
            loss = torch.nn.functional.cross_entropy(
                logits[:, :-1].float().flatten(0, 1), ids[:, 1:].flatten()
            )
            scaler.scale(loss / accumulate).backward()
            total += float(loss.detach()) / accumulate
        scaler.unscale_(opt)
        before = norm_of(gradients_of(model))
        if math.isfinite(before):
            clip(model)
            taken += 1
        rows.append((before, norm_of(gradients_of(model)), total))
        scaler.step(opt)
        scaler.update()
    return model, rows
