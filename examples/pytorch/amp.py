"""Mixed precision: bfloat16 autocast, then float16 with a gradient scaler.

The clip acts on the true gradients, without the scaler's scale, and needs no `scaler.unscale_`. A step
that the scaler skips, because a scaled gradient overflowed, is neither clipped nor counted as clipped.

    python examples/pytorch/amp.py
"""

import torch
from torch import nn

import clipwise

device = "cuda" if torch.cuda.is_available() else "cpu"


def train(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 128), nn.GELU(), nn.Linear(128, 128), nn.GELU(), nn.Linear(128, 1))
    model.to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    scaler = torch.amp.GradScaler(device, init_scale=2.0**24, enabled=dtype == torch.float16)
    clipper = clipwise.torch.attach(optimizer, clipwise.clip_by_global_norm(0.5), model=model)
    for _ in range(60):
        x = torch.randn(64, 32, device=device)
        y = 3 * x[:, :4].sum(1, keepdim=True)
        with torch.autocast(device, dtype=dtype):
            loss = nn.functional.mse_loss(model(x).float(), y)
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)  # clipped just before, or skipped
        scaler.update()
    print(
        f"{str(dtype).removeprefix('torch.')}: loss {loss.item():.2f}, scale {scaler.get_scale():g},"
        f" last {clipper.report}; clipped {clipper.clipped_steps} of 60 steps"
    )


train(torch.bfloat16)
train(torch.float16)
