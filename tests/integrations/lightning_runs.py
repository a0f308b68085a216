"""Lightning modules over the models of the reference loops: a batch is the number of its step."""

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers.logger import Logger
from torch.utils.data import DataLoader

from tests.torch.loops.reference_loops import STEPS, loss_of, make_model

QUIET = {
    "accelerator": "cpu",
    "devices": 1,
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "max_epochs": 1,
}

SGD = {"lr": 0.1, "momentum": 0.9}


def sgd(parameters):
    return torch.optim.SGD(parameters, **SGD)


class Automatic(pl.LightningModule):
    """One optimizer, Lightning's own loop."""

    def __init__(self, make_optimizer=sgd, seed=0):
        super().__init__()
        self.net, self.make_optimizer = make_model(seed), make_optimizer

    def training_step(self, batch, _):
        return loss_of(self.net, int(batch))

    def configure_optimizers(self):
        return self.make_optimizer(self.net.parameters())


class Two(pl.LightningModule):
    """Two models with an optimizer each, one backward pass and step after the other, as in a GAN."""

    automatic_optimization = False

    def __init__(self):
        super().__init__()
        self.first, self.second = make_model(1), make_model(2)

    def training_step(self, batch, _):
        for net, factor, opt in zip(
            (self.first, self.second), (1.0, 3.0), self.optimizers(use_pl_optimizer=True), strict=True
        ):
            opt.zero_grad()
            self.manual_backward(loss_of(net, int(batch)) * factor)
            opt.step()

    def configure_optimizers(self):
        return [sgd(self.first.parameters()), torch.optim.Adam(self.second.parameters(), lr=0.01)]


class InMemory(Logger):
    """Keeps what it is told."""

    name, version = "memory", 0

    def __init__(self):
        super().__init__()
        self.rows = []

    def log_metrics(self, metrics, step=None):
        self.rows.append((step, dict(metrics)))

    def log_hyperparams(self, *args, **kwargs):
        pass


def steps(count=STEPS, start=0):
    return DataLoader(torch.arange(start, start + count), batch_size=1, shuffle=False)


def fit(module, *callbacks, data=None, ckpt_path=None, package=pl, **options):
    trainer = package.Trainer(**QUIET | {"callbacks": list(callbacks)} | options)
    trainer.fit(module, steps() if data is None else data, ckpt_path=ckpt_path)
    return trainer
