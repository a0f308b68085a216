"""Lightning: the clip is a callback of the Trainer, which logs norm and threshold too.

Use it in the place of `gradient_clip_val`.

    python examples/trainers/lightning_trainer.py
"""

import lightning.pytorch as pl
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import clipwise
from clipwise.integrations.lightning import ClipCallback


class Regression(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 1))

    def training_step(self, batch: list[torch.Tensor], index: int) -> torch.Tensor:
        x, y = batch
        loss = nn.functional.mse_loss(self.net(x), y)
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-2)


pl.seed_everything(0, verbose=False)
x = torch.randn(1024, 8)
loader = DataLoader(TensorDataset(x, x.square().sum(1, keepdim=True)), batch_size=32, shuffle=True)
callback = ClipCallback(clipwise.clip_by_global_norm(5.0))
trainer = pl.Trainer(
    max_epochs=3,
    callbacks=[callback],
    accelerator="cpu",
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
    enable_model_summary=False,
)
trainer.fit(Regression(), loader)

for name, value in sorted(trainer.callback_metrics.items()):
    print(f"{name:22} {float(value):.4g}")
print(f"clipped {callback.clipper.clipped_steps} of {callback.clipper.steps} steps")
