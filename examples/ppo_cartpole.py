"""PPO on CartPole-v1, complete: both of its clips, of ratios and of gradients, are clipwise's.

    python examples/ppo_cartpole.py                 three seeds of 500,000 steps, CleanRL's settings
    python examples/ppo_cartpole.py --ablation      both clips on and off, at ten times the rate
    python examples/ppo_cartpole.py --ablation --out four-ways.png

Needs gymnasium, and matplotlib for a picture. Settings as in CleanRL's ppo.py,
docs.cleanrl.dev/rl-algorithms/ppo.
"""

import argparse
import math
import time
from dataclasses import dataclass, field, replace

import gymnasium
import numpy as np
import torch
from torch import nn

import clipwise
from clipwise.functional.ratios import ppo_clip, value_clip


@dataclass(frozen=True)
class Settings:
    steps: int = 500_000
    rate: float = 2.5e-4  # falls to 0 along a straight line
    envs: int = 4
    rollout: int = 128
    minibatches: int = 4
    epochs: int = 4
    gamma: float = 0.99
    lam: float = 0.95
    ratio_clip: float | None = 0.2
    value_clip: float = 0.2
    value_weight: float = 0.5
    entropy_weight: float = 0.01
    gradient_clip: float = 0.5  # math.inf: only measured


AGGRESSIVE = Settings(steps=100_000, rate=2.5e-3, epochs=10)


@dataclass
class Record:
    """What a run went through."""

    steps: list[int] = field(default_factory=list)  # at which each episode ended
    returns: list[float] = field(default_factory=list)
    updates: list[dict[str, float]] = field(default_factory=list)

    def last(self, episodes: int = 100) -> float:
        return float(np.mean(self.returns[-episodes:])) if self.returns else math.nan


def layer(inputs: int, outputs: int, gain: float = math.sqrt(2)) -> nn.Linear:
    made = nn.Linear(inputs, outputs)
    nn.init.orthogonal_(made.weight, gain)
    nn.init.zeros_(made.bias)
    return made


def network(inputs: int, outputs: int, gain: float) -> nn.Sequential:
    return nn.Sequential(layer(inputs, 64), nn.Tanh(), layer(64, 64), nn.Tanh(), layer(64, outputs, gain))


def train(settings: Settings, seed: int, say: str = "") -> Record:
    """One run; ``say`` begins the lines of progress, none without."""
    torch.manual_seed(seed)
    shuffler = np.random.default_rng(seed)
    envs = gymnasium.vector.SyncVectorEnv(
        [lambda: gymnasium.make("CartPole-v1")] * settings.envs,
        autoreset_mode=gymnasium.vector.AutoresetMode.SAME_STEP,
    )
    features, actions = envs.single_observation_space.shape[0], int(envs.single_action_space.n)
    agent = nn.ModuleDict({"actor": network(features, actions, 0.01), "critic": network(features, 1, 1.0)})
    optimizer = torch.optim.Adam(agent.parameters(), lr=settings.rate, eps=1e-5)
    clip = clipwise.clip_by_global_norm(settings.gradient_clip)
    clipper = clipwise.torch.attach(optimizer, clip, model=agent)
    # With low=1 and high=inf the clip leaves every ratio alone.
    region = (1.0, math.inf) if settings.ratio_clip is None else (settings.ratio_clip, settings.ratio_clip)

    record, batch = Record(), settings.envs * settings.rollout
    running = np.zeros(settings.envs)
    shape = (settings.rollout, settings.envs)
    seen = torch.zeros(*shape, features)
    taken = torch.zeros(shape, dtype=torch.int64)
    logps, values = torch.zeros(shape), torch.zeros(shape)
    rewards, ends = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    observation = torch.as_tensor(envs.reset(seed=seed)[0])
    updates, started = max(1, settings.steps // batch), time.monotonic()

    for update in range(updates):
        optimizer.param_groups[0]["lr"] = settings.rate * (1 - update / updates)
        with torch.no_grad():
            for t in range(settings.rollout):
                logits = torch.log_softmax(agent["actor"](observation), -1)
                action = torch.multinomial(logits.exp(), 1)
                seen[t], taken[t], values[t] = observation, action[:, 0], agent["critic"](observation)[:, 0]
                logps[t] = logits.gather(1, action)[:, 0]
                after, rewards[t], terminated, truncated, _ = envs.step(action[:, 0].numpy())
                observation, done = torch.as_tensor(after), terminated | truncated
                ends[t] = done
                running += rewards[t]
                for env in np.flatnonzero(done):
                    record.steps.append(update * batch + (t + 1) * settings.envs)
                    record.returns.append(float(running[env]))
                    running[env] = 0.0
            following = agent["critic"](observation)[:, 0].numpy()
        advantages = generalised_advantages(rewards, values.numpy(), following, ends, settings)
        targets = torch.as_tensor(advantages) + values

        flat = [x.reshape(batch, *x.shape[2:]) for x in (seen, taken, logps, values, targets)]
        worth = torch.as_tensor(advantages).reshape(batch)
        figures: list[dict[str, float]] = []
        for _ in range(settings.epochs):
            for chosen in torch.as_tensor(shuffler.permutation(batch)).chunk(settings.minibatches):
                obs, act, old_logp, old_value, target = (x[chosen] for x in flat)
                part = worth[chosen]
                part = (part - part.mean()) / (part.std() + 1e-8)
                log_probs = torch.log_softmax(agent["actor"](obs), -1)
                logp = log_probs.gather(1, act[:, None])[:, 0]
                policy_loss, of_ratios = ppo_clip(logp, old_logp, part, low=region[0], high=region[1])
                value_loss, _ = value_clip(agent["critic"](obs)[:, 0], old_value, target, settings.value_clip)
                entropy = -(log_probs.exp() * log_probs).sum(-1).mean()
                loss = policy_loss - settings.entropy_weight * entropy + settings.value_weight * value_loss
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()  # clipped by clipwise
            figures.append(of_ratios.metrics("") | {"gradient": float(clipper.report.norm)})
        record.updates.append({name: float(np.mean([f[name] for f in figures])) for name in figures[0]})
        if say and (update + 1) % max(1, updates // 20) == 0:
            latest = record.updates[-1]
            print(
                f"{say}  {(update + 1) * batch:>7,} steps  return {record.last():6.1f}"
                f"  outside {latest['outside']:.3f}  binding {latest['binding']:.3f}"
                f"  KL {latest['kl_k3']:.2e}  ratio up to {latest['ratio_max']:.3g}"
                f"  gradient {latest['gradient']:.2f}  {time.monotonic() - started:4.0f} s",
                flush=True,
            )
    envs.close()
    return record


def generalised_advantages(
    rewards: np.ndarray, values: np.ndarray, following: np.ndarray, ends: np.ndarray, settings: Settings
) -> np.ndarray:
    """GAE, arXiv:1506.02438; as in CleanRL an episode cut off at 500 steps counts as ended."""
    out, last = np.zeros_like(rewards), np.zeros_like(following)
    for t in reversed(range(len(rewards))):
        alive = 1 - ends[t]
        delta = rewards[t] + settings.gamma * following * alive - values[t]
        out[t] = last = delta + settings.gamma * settings.lam * alive * last
        following = values[t]
    return out


def four_ways(settings: Settings) -> dict[str, Settings]:
    return {
        "both clips": settings,
        "ratio clip only": replace(settings, gradient_clip=math.inf),
        "gradient clip only": replace(settings, ratio_clip=None),
        "no clip": replace(settings, ratio_clip=None, gradient_clip=math.inf),
    }


def smooth(record: Record, grid: np.ndarray, episodes: int = 20) -> np.ndarray:
    """The mean return of the latest episodes at each of some steps."""
    sums = np.concatenate([[0.0], np.cumsum(record.returns)])
    at = np.searchsorted(record.steps, grid, side="right")
    start = np.maximum(at - episodes, 0)
    return np.where(at > 0, (sums[at] - sums[start]) / np.maximum(at - start, 1), np.nan)


def draw(runs: dict[str, list[Record]], settings: Settings, path: str) -> None:
    """A panel for each way: every seed's return; below, how far the ratios went."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(
        2, len(runs), figsize=(3.2 * max(len(runs), 2), 5.2), sharex=True, sharey="row", squeeze=False
    )
    grid = np.linspace(0, settings.steps, 400)
    widest = max(update["ratio_max"] for records in runs.values() for r in records for update in r.updates)
    for column, (name, records) in enumerate(runs.items()):
        top, bottom = axes[:, column]
        for number, record in enumerate(records):
            top.plot(grid, smooth(record, grid), lw=1.2, color=f"C{number}")
            farthest = [u["ratio_max"] for u in record.updates]
            bottom.plot(np.linspace(0, settings.steps, len(farthest)), farthest, lw=0.8, color=f"C{number}")
        last = np.mean([record.last() for record in records])
        top.set_title(f"{name}\nlast 100 episodes: {last:.0f}", fontsize=10)
        top.axhline(475, color="0.7", lw=0.8, ls=":")
        bottom.set_yscale("log" if widest > 3 else "linear")
        bottom.axhline(1.2, color="0.7", lw=0.8, ls=":")
        bottom.set_xlabel("steps")
        bottom.xaxis.set_major_formatter(lambda x, _: f"{x / 1000:g}k")
        for axis in (top, bottom):
            axis.spines[["top", "right"]].set_visible(False)
    axes[0, 0].set_ylabel("return, 20 episodes")
    axes[1, 0].set_ylabel("largest ratio of a minibatch")
    figure.suptitle(
        f"PPO on CartPole-v1, rate {settings.rate:g}, {settings.epochs} epochs, one line a seed", fontsize=11
    )
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--ablation", action="store_true", help="four ways, at ten times the rate")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--steps", type=int, help="500,000, or 100,000 with --ablation")
    parser.add_argument("--quick", action="store_true", help="a few steps of one seed, to see that it runs")
    parser.add_argument("--out", help="a picture")
    args = parser.parse_args()
    if args.steps is not None and args.steps < 512:
        parser.error(f"--steps must be at least 512, one rollout, got {args.steps}")
    torch.set_num_threads(1)  # such small networks are slower on several

    settings = AGGRESSIVE if args.ablation else Settings()
    steps = args.steps or (2_048 if args.quick else settings.steps)
    settings = replace(settings, steps=steps)
    seeds = args.seeds[:1] if args.quick else args.seeds
    ways = four_ways(settings) if args.ablation else {"both clips": settings}
    runs = {name: [train(way, seed, f"{name}, seed {seed}:") for seed in seeds] for name, way in ways.items()}
    print(f"\nmean return of the last 100 episodes, {steps:,} steps, rate {settings.rate:g}")
    for name, records in runs.items():
        print(f"  {name:<20}" + "".join(f"{record.last():8.1f}" for record in records))
    if args.out:
        draw(runs, settings, args.out)
        print(f"wrote {args.out}")


if __name__ == "__main__":
    main()
