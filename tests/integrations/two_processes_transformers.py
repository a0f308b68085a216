"""A script for torchrun: Hugging Face's Trainer on two processes of the CPU."""

import sys

import torch

import clipwise
from clipwise.integrations.transformers import ClipCallback
from tests.integrations.policies import LossItself
from tests.integrations.transformers_runs import logged, trainer_for

if __name__ == "__main__":
    callback = ClipCallback(clipwise.Clip(LossItself(0.3)))
    trainer = trainer_for(sys.argv[1], callback, ddp_backend="gloo", save_strategy="steps", save_steps=8)
    trainer.train()
    heard = logged(trainer, "clipwise/threshold") if trainer.args.process_index == 0 else []
    last = float(callback.clipper.report.threshold)
    result = {"model": trainer.model.state_dict(), "heard": heard, "last": last}
    torch.save(result, f"{sys.argv[1]}/rank{trainer.args.process_index}.pt")
