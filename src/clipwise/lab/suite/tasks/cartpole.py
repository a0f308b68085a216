"""PPO on CartPole-v1."""

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from clipwise.extras import load
from clipwise.functional.ratios import ppo_clip, value_clip
from clipwise.lab.suite.loop import LoopTask, Training, Update
from clipwise.lab.suite.methods import METHODS, Method
from clipwise.lab.suite.task import Trial

__all__ = ["CartPole", "advantages"]

ENVIRONMENTS, ROLLOUT, MINIBATCHES = 4, 128, 4
BATCH = ENVIRONMENTS * ROLLOUT
GAMMA, LAMBDA, CLIP = 0.99, 0.95, 0.2
EPISODES = 100
"""The return is the mean of so many, the last ones of the training."""


class CartPole(LoopTask):
    """PPO with the details of CleanRL's ``ppo.py`` (Huang et al. 2022, docs.cleanrl.dev/rl-algorithms/ppo).

    Args:
        published: with CleanRL's rate and epochs and the threshold .5 alone; else at ten times the rate.
    """

    def __init__(self, *, published: bool = False) -> None:
        self.rate, self.epochs = (2.5e-4, 4) if published else (2.5e-3, 10)
        methods: Mapping[str, Method] = {"norm-0.5": METHODS["norm-0.5"]} if published else METHODS
        super().__init__(
            name="cartpole-cleanrl" if published else "cartpole",
            title="PPO on CartPole, CleanRL's setting"
            if published
            else "PPO on CartPole, Adam at ten times the rate",
            about=f"Four environments, 128 steps each, {self.epochs} epochs of four minibatches, ratios"
            f" clipped at .2, Adam at {self.rate:g} falling to 0"
            + (", as CleanRL has it." if published else "; CleanRL has .00025 and 4 epochs."),
            metric="return",
            lower_is_better=False,
            sizes={
                "tiny": {"steps": 2 * BATCH},
                "small": {"steps": 14 * BATCH},
                "full": {"steps": 500_000 if published else 80_000},
            },
            seconds={"tiny": 0.5, "small": 2.2, "full": 90 if published else 24},
            methods=methods,
        )

    def build(self, trial: Trial) -> Training:
        gymnasium = load("gymnasium", purpose=f"the task {self.name}", extra="lab")
        iterations = self.sizes[trial.budget]["steps"] // BATCH
        environments = gymnasium.vector.SyncVectorEnv(
            [lambda: gymnasium.make("CartPole-v1")] * ENVIRONMENTS,
            autoreset_mode=gymnasium.vector.AutoresetMode.SAME_STEP,
        )
        norm = trial.variant.layer_norm
        agent = nn.ModuleDict({"actor": _network(2, 0.01, norm), "critic": _network(1, 1.0, norm)})
        rate = self.rate * trial.variant.rate
        optimizer = torch.optim.Adam(
            agent.parameters(), lr=rate, eps=1e-5, weight_decay=trial.variant.weight_decay
        )
        player = _Player(environments, agent, trial.seed)
        shuffler = torch.Generator().manual_seed(trial.seed)

        def updates() -> Iterator[Update]:
            for iteration in itertools.count():
                if not trial.variant.schedule:
                    optimizer.param_groups[0]["lr"] = rate * max(0.0, 1 - iteration / iterations)
                rollout = player.play()
                for _ in range(self.epochs):
                    for chosen in torch.randperm(BATCH, generator=shuffler).chunk(MINIBATCHES):
                        yield _loss(agent, {name: part[chosen] for name, part in rollout.items()}), 0

        def evaluate() -> dict[str, float]:
            last = player.returns[-EPISODES:]
            return {
                "return": float(np.mean(last)) if last else math.nan,
                "episodes": float(len(player.returns)),
            }

        per_rollout = self.epochs * MINIBATCHES
        every = per_rollout * max(1, iterations // 10)
        return Training(agent, [optimizer], updates, evaluate, iterations * per_rollout, every)


@dataclass
class _Player:
    """Plays with the agent as it is, and keeps the returns of all episodes that ended."""

    environments: Any
    agent: nn.ModuleDict
    seed: int
    returns: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._running = np.zeros(ENVIRONMENTS)
        self._seen = torch.as_tensor(self.environments.reset(seed=self.seed)[0])

    @torch.no_grad()
    def play(self) -> dict[str, Tensor]:
        """One rollout with its advantages, flat."""
        shape = (ROLLOUT, ENVIRONMENTS)
        seen, actions = torch.zeros(*shape, 4), torch.zeros(shape, dtype=torch.int64)
        logps, values = torch.zeros(shape), torch.zeros(shape)
        rewards, ends = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
        for t in range(ROLLOUT):
            log_probs = torch.log_softmax(self.agent["actor"](self._seen), -1)
            if not bool(log_probs.isfinite().all()):  # of weights that have diverged nothing can be drawn
                log_probs = torch.full_like(log_probs, -math.log(2))
            action = torch.multinomial(log_probs.exp(), 1)
            seen[t], actions[t] = self._seen, action[:, 0]
            values[t] = self.agent["critic"](self._seen)[:, 0]
            logps[t] = log_probs.gather(1, action)[:, 0]
            after, rewards[t], terminated, truncated, _ = self.environments.step(action[:, 0].numpy())
            self._seen = torch.as_tensor(after)
            ends[t] = terminated | truncated
            self._running += rewards[t]
            for place in np.flatnonzero(ends[t]):
                self.returns.append(float(self._running[place]))
                self._running[place] = 0.0
        following = self.agent["critic"](self._seen)[:, 0].numpy()
        worth = torch.as_tensor(advantages(rewards, values.numpy(), following, ends))
        parts = {"seen": seen, "actions": actions, "logps": logps, "values": values}
        parts |= {"worth": worth, "targets": worth + values}
        return {name: part.reshape(BATCH, *part.shape[2:]) for name, part in parts.items()}


def _loss(agent: nn.ModuleDict, part: Mapping[str, Tensor]) -> Tensor:
    worth = part["worth"]
    worth = (worth - worth.mean()) / (worth.std() + 1e-8)
    log_probs = torch.log_softmax(agent["actor"](part["seen"]), -1)
    logp = log_probs.gather(1, part["actions"][:, None])[:, 0]
    policy, _ = ppo_clip(logp, part["logps"], worth, low=CLIP, high=CLIP)
    value, _ = value_clip(agent["critic"](part["seen"])[:, 0], part["values"], part["targets"], CLIP)
    entropy = -(log_probs.exp() * log_probs).sum(-1).mean()
    total: Tensor = policy - 0.01 * entropy + 0.5 * value
    return total


def advantages(rewards: Any, values: Any, following: Any, ends: Any) -> Any:
    """Generalised advantage estimation (arXiv:1506.02438); an episode cut off at 500 steps counts as ended.

    Args:
        rewards, values, ends: ``(steps, environments)``; an end is 1 where the step ended its episode.
        following: the values after the last step.
    """
    found, last = np.zeros_like(rewards), np.zeros_like(following)
    for t in reversed(range(len(rewards))):
        alive = 1 - ends[t]
        delta = rewards[t] + GAMMA * following * alive - values[t]
        found[t] = last = delta + GAMMA * LAMBDA * alive * last
        following = values[t]
    return found


def _network(outputs: int, gain: float, norm: bool) -> nn.Sequential:
    parts: list[nn.Module] = []
    for inputs in (4, 64):
        parts += [_layer(inputs, 64, math.sqrt(2)), *([nn.LayerNorm(64)] if norm else []), nn.Tanh()]
    return nn.Sequential(*parts, _layer(64, outputs, gain))


def _layer(inputs: int, outputs: int, gain: float) -> nn.Linear:
    made = nn.Linear(inputs, outputs)
    nn.init.orthogonal_(made.weight, gain)
    nn.init.zeros_(made.bias)
    return made
