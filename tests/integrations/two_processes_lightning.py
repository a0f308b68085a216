"""A script for torchrun: Lightning's DDP on two processes of the CPU, each with half of every batch."""

import sys

import torch

from clipwise.integrations.lightning import ClipCallback
from tests.integrations.lightning_runs import Automatic, fit
from tests.integrations.policies import HEARS
from tests.torch.loops.reference_loops import batch


class Half(Automatic):
    def __init__(self):
        super().__init__()
        self.heard = []

    def training_step(self, number, _):
        rows = batch(int(number))[self.global_rank : 4 : 2]
        return self.net(rows).square().mean()

    def on_train_batch_end(self, *args):
        self.heard.append(float(self.trainer.callbacks[0].clipper.report.threshold))


if __name__ == "__main__":
    module = Half()
    fit(module, ClipCallback(HEARS), strategy="ddp", devices=2, use_distributed_sampler=False)
    result = {"model": module.net.state_dict(), "heard": module.heard}
    torch.save(result, f"{sys.argv[1]}/rank{module.global_rank}.pt")
