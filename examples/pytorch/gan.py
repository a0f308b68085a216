"""A GAN: two optimizers, one gradient scaler, a clip for each network.

The generator and the discriminator step after backward passes of their own, so each optimizer is
attached by itself. (Optimizers that step after one common backward pass are attached together:
`attach([a, b], clip)`.)

    python examples/pytorch/gan.py
"""

import torch
from torch import nn

import clipwise

device = "cuda" if torch.cuda.is_available() else "cpu"
torch.manual_seed(0)


def network(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, 64), nn.LeakyReLU(0.2), nn.Linear(64, outputs)).to(device)


generator, discriminator = network(8, 2), network(2, 1)
g_optimizer = torch.optim.Adam(generator.parameters(), lr=2e-3, betas=(0.5, 0.999))
d_optimizer = torch.optim.Adam(discriminator.parameters(), lr=2e-3, betas=(0.5, 0.999))
g_clipper = clipwise.torch.attach(g_optimizer, clipwise.clip_by_global_norm(0.1), model=generator)
d_clipper = clipwise.torch.attach(d_optimizer, clipwise.autoclip(90), model=discriminator)
scaler = torch.amp.GradScaler(device)
bce = nn.functional.binary_cross_entropy_with_logits
centre = torch.tensor([2.0, -1.0], device=device)

for step in range(201):
    real = centre + 0.5 * torch.randn(64, 2, device=device)
    with torch.autocast(device, dtype=torch.float16):
        fake = generator(torch.randn(64, 8, device=device))
        on_real, on_fake = discriminator(real).float(), discriminator(fake.detach()).float()
        d_loss = bce(on_real, torch.ones_like(on_real)) + bce(on_fake, torch.zeros_like(on_fake))
    d_optimizer.zero_grad()
    scaler.scale(d_loss).backward()
    scaler.step(d_optimizer)

    with torch.autocast(device, dtype=torch.float16):
        on_fake = discriminator(fake).float()
        g_loss = bce(on_fake, torch.ones_like(on_fake))
    g_optimizer.zero_grad()
    scaler.scale(g_loss).backward()
    scaler.step(g_optimizer)
    scaler.update()

    if step % 50 == 0:
        x, y = fake.float().mean(0).tolist()
        print(f"step {step:3}  samples around ({x:.2f}, {y:.2f})  generator: {g_clipper.report}")

for name, clipper in (("generator", g_clipper), ("discriminator", d_clipper)):
    print(f"{name}: clipped {clipper.clipped_steps} of {clipper.steps} steps, last {clipper.report}")
