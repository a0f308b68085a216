"""LoRA: only the adapters are trained, so only their gradients are measured and clipped.

The frozen weights have no gradient and do not enter the norm. `autoclip` finds the threshold, which for
adapters is far from the 1.0 that is usual for whole models.

    python examples/pytorch/lora.py
"""

import torch
from torch import nn

import clipwise


class LoRALinear(nn.Module):
    """A frozen linear layer plus a trained update of low rank: W x + (alpha / r) B A x."""

    def __init__(self, frozen: nn.Linear, rank: int = 4, alpha: float = 8.0) -> None:
        super().__init__()
        self.frozen = frozen.requires_grad_(False)
        self.lora_A = nn.Parameter(torch.randn(rank, frozen.in_features) / rank)
        self.lora_B = nn.Parameter(torch.zeros(frozen.out_features, rank))
        self.scale = alpha / rank

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.frozen(x) + self.scale * (x @ self.lora_A.T @ self.lora_B.T)


torch.manual_seed(0)
model = nn.Sequential(nn.Linear(32, 128), nn.GELU(), nn.Linear(128, 128), nn.GELU(), nn.Linear(128, 4))
before = {name: weight.clone() for name, weight in model.named_parameters()}
for place in (0, 2, 4):
    model[place] = LoRALinear(model[place])

trained = [weight for weight in model.parameters() if weight.requires_grad]
optimizer = torch.optim.AdamW(trained, lr=2e-3)
clipper = clipwise.torch.attach(optimizer, clipwise.autoclip(50), model=model)

directions = torch.randn(32, 4)
for step in range(201):
    x = torch.randn(64, 32)
    loss = nn.functional.cross_entropy(model(x), (x @ directions).argmax(1))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 50 == 0:
        print(f"step {step:3}  loss {loss.item():.3f}  {clipper.report}")

total = sum(weight.numel() for weight in model.parameters())
print(f"trained {sum(weight.numel() for weight in trained)} of {total} weights")
print("clipped:", ", ".join(clipper.report.names))
now = {name.replace("frozen.", ""): weight for name, weight in model.named_parameters() if "frozen" in name}
print("frozen weights unchanged:", all(torch.equal(before[name], now[name]) for name in before))
