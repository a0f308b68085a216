"""A WGAN critic two ways: weights clipped after every step, and the gradient penalty.

Both keep the critic's slope bounded (Arjovsky et al. 2017; Gulrajani et al. 2017). The weights are
clipped by the optimizer's own hook, the penalty is one more term of the loss.

    python examples/pytorch/wgan.py
"""

import torch
from torch import nn

import clipwise


def network(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, outputs)
    )


def slope(critic: nn.Module, points: torch.Tensor) -> float:
    points = points.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(critic(points).sum(), points)
    return gradient.norm(dim=1).mean().item()


def train(penalty: bool) -> None:
    torch.manual_seed(0)
    generator, critic = network(4, 2), network(2, 1)
    if penalty:
        g_optimizer = torch.optim.Adam(generator.parameters(), lr=5e-4, betas=(0.0, 0.9))
        c_optimizer = torch.optim.Adam(critic.parameters(), lr=2e-3, betas=(0.0, 0.9))
    else:
        g_optimizer = torch.optim.RMSprop(generator.parameters(), lr=1e-3)
        c_optimizer = torch.optim.RMSprop(critic.parameters(), lr=1e-3)
        clipper = clipwise.torch.attach(c_optimizer, weights=clipwise.clip_by_value(0.1), model=critic)
    for step in range(451):
        real = torch.tensor([1.5, -1.0]) + 0.3 * torch.randn(64, 2)
        fake = generator(torch.randn(64, 4))
        loss = critic(fake.detach()).mean() - critic(real).mean()
        if penalty:
            loss = loss + clipwise.torch.gradient_penalty(critic, real, fake, weight=10.0)
        c_optimizer.zero_grad()
        loss.backward()
        c_optimizer.step()  # with weights=, the critic's weights are clipped just after
        if step % 3 == 0:  # three steps of the critic for one of the generator
            g_optimizer.zero_grad()
            (-critic(generator(torch.randn(64, 4))).mean()).backward()
            g_optimizer.step()
    x, y = fake.mean(0).tolist()
    line = (
        f"samples around ({x:.2f}, {y:.2f}), the critic's slope {slope(critic, torch.cat([real, fake])):.3f}"
    )
    if penalty:
        print(f"gradient penalty: {line}")
    else:
        largest = max(weight.abs().max().item() for weight in critic.parameters())
        print(
            f"clipped weights:  {line}, largest weight {largest:g},"
            f" {clipper.weights.report.at_bound:.0%} of them there"
        )


train(penalty=False)
train(penalty=True)
