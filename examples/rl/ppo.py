"""PPO on CartPole, a few updates: ratios and values are clipped in the loss, gradients in the step.

`ppo_cartpole.py` one folder up is the whole algorithm with published settings.

    python examples/rl/ppo.py
"""

import gymnasium
import torch
from torch import nn

import clipwise
from clipwise.functional.ratios import ppo_clip, value_clip

GAMMA, LAMBDA, STEPS = 0.99, 0.95, 1024

torch.manual_seed(0)
env = gymnasium.make("CartPole-v1")
actor = nn.Sequential(nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 2))
critic = nn.Sequential(nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 1))
agent = nn.ModuleDict({"actor": actor, "critic": critic})
optimizer = torch.optim.Adam(agent.parameters(), lr=3e-3)
clipper = clipwise.torch.attach(optimizer, clipwise.clip_by_global_norm(0.5), model=agent)

observation, episode, returns = torch.as_tensor(env.reset(seed=0)[0]), 0.0, []
for update in range(6):
    rows = []
    with torch.no_grad():
        for _ in range(STEPS):
            policy = torch.distributions.Categorical(logits=actor(observation))
            action = policy.sample()
            after, reward, terminated, truncated, _ = env.step(action.item())
            done = terminated or truncated
            rows.append((observation, action, policy.log_prob(action), critic(observation)[0], reward, done))
            episode += reward
            if done:
                returns.append(episode)
                after, episode = env.reset()[0], 0.0
            observation = torch.as_tensor(after)
        following, advantage, advantages = critic(observation)[0], 0.0, []
        for *_, value, reward, done in reversed(rows):  # generalised advantages
            alive = 1.0 - done
            delta = reward + GAMMA * following * alive - value
            advantage = delta + GAMMA * LAMBDA * alive * advantage
            advantages.insert(0, advantage)
            following = value
    obs, actions, old_logp, old_values = (torch.stack(column) for column in list(zip(*rows, strict=True))[:4])
    advantages = torch.stack(advantages)
    targets = advantages + old_values

    for _ in range(10):
        for part in torch.randperm(STEPS).chunk(8):
            logp = torch.distributions.Categorical(logits=actor(obs[part])).log_prob(actions[part])
            worth = advantages[part]
            worth = (worth - worth.mean()) / (worth.std() + 1e-8)
            policy_loss, figures = ppo_clip(logp, old_logp[part], worth, low=0.2)
            value_loss, _ = value_clip(critic(obs[part])[:, 0], old_values[part], targets[part], epsilon=0.2)
            optimizer.zero_grad()
            (policy_loss + 0.5 * value_loss).backward()
            optimizer.step()  # clipped by its norm
    recent = returns[-20:]
    print(
        f"update {update + 1}  return {sum(recent) / len(recent):5.1f}"
        f"  ratios outside {float(figures.outside):.1%}, up to {float(figures.ratio_max):.2f}"
        f"  {clipper.report}"
    )
print(f"clipped {clipper.clipped_steps} of {clipper.steps} gradients")
