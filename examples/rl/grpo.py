"""GRPO: ratios of a group of sampled sequences, clipped, with the figures that say how often the clip acts.

A small language model learns to write more of one token. Each prompt has a group of completions, a
completion's advantage is its reward against its group's, and several steps are made on the same samples,
so ratios leave 1.

    python examples/rl/grpo.py
"""

import torch
from torch import nn

import clipwise
from clipwise.functional.ratios import grpo

VOCABULARY, LENGTH, PROMPTS, GROUP, WANTED = 16, 12, 4, 16, 7


class Policy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 32)
        self.gru = nn.GRU(32, 64, batch_first=True)
        self.head = nn.Linear(64, VOCABULARY)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.gru(self.embedding(tokens))[0]).log_softmax(-1)


def logp_of(policy: Policy, tokens: torch.Tensor) -> torch.Tensor:
    """The log-probability of each token after the first, which is the prompt."""
    return policy(tokens[:, :-1]).gather(2, tokens[:, 1:, None])[..., 0]


torch.manual_seed(0)
policy = Policy()
optimizer = torch.optim.Adam(policy.parameters(), lr=3e-3)
clipper = clipwise.torch.attach(optimizer, clipwise.clip_by_global_norm(0.2), model=policy)

for update in range(15):
    tokens = torch.randint(VOCABULARY, (PROMPTS, 1)).repeat_interleave(GROUP, 0)
    with torch.no_grad():
        for _ in range(LENGTH):
            tokens = torch.cat([tokens, policy(tokens)[:, -1].exp().multinomial(1)], 1)
        old_logp = logp_of(policy, tokens)
    completions = tokens[:, 1:]
    ended = (completions == 0).cumsum(1)  # token 0 ends a sequence; what follows is padding
    mask = ended - (completions == 0).long() == 0
    rewards = ((completions == WANTED) & mask).sum(1).float()
    groups = rewards.view(PROMPTS, GROUP)
    advantages = ((groups - groups.mean(1, keepdim=True)) / (groups.std(1, keepdim=True) + 1e-4)).view(-1)
    for _ in range(4):
        loss, figures = grpo(logp_of(policy, tokens), old_logp, advantages, low=0.2, mask=mask)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    if update % 2 == 0:
        print(
            f"update {update:2}  reward {rewards.mean().item():5.2f}  outside {float(figures.outside):.1%}"
            f"  binding {float(figures.binding):.1%}  KL {float(figures.kl_k3):.4f}  {clipper.report}"
        )
print(f"reward {rewards.mean().item():.2f} of at most {LENGTH}")
