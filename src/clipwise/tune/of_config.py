"""Trials with a configuration of the lab."""

import math
import statistics
from collections.abc import Callable, Mapping
from pathlib import Path

from clipwise.config import parse
from clipwise.errors import TrainingStopped
from clipwise.lab.config.lab_config import LabConfig
from clipwise.lab.record import RunRecord
from clipwise.lab.recording import RecordingTarget
from clipwise.tune.space import NONE, Candidate
from clipwise.tune.study import Pruned

LOOKS = 10
"""How often in a run it is asked whether it is hopeless."""


class ConfigObjective:
    """Trains a configuration; the value is the final held-out metric, the median over the seeds.

    A run that diverges gets the worst possible value.

    Args:
        config: the configuration; its seed is the first one.
        seeds: number of seeds.
        target: where the runs are recorded.
        lower_is_better: whether a lower metric is better.
    """

    def __init__(
        self, config: LabConfig, target: RecordingTarget, *, seeds: int = 1, lower_is_better: bool = True
    ) -> None:
        self._config, self._target, self._seeds = config, target, seeds
        self._worst = math.inf if lower_is_better else -math.inf
        self._sign = 1.0 if lower_is_better else -1.0

    def __call__(self, chosen: Candidate, number: int, report: Callable[[int, float], None]) -> float:
        config = self._config.override(learning_rate=chosen.rate)
        seeds = range(config.seed, config.seed + self._seeds)
        return statistics.median(
            self._value(self._trained(config, chosen, seed, report if seed == config.seed else None))
            for seed in seeds
        )

    def _trained(
        self,
        config: LabConfig,
        chosen: Candidate,
        seed: int,
        report: Callable[[int, float], None] | None,
    ) -> RunRecord:
        from clipwise.lab.training.train import train

        label = chosen.clip if chosen.rate is None else f"{chosen.clip}, rate {chosen.rate:g}"
        looked = 0

        def progress(step: int, total: int, figures: Mapping[str, float]) -> None:
            nonlocal looked
            look = LOOKS * step // max(total, 1)
            if report is None or look <= looked or step >= total:
                return
            looked = look
            try:
                # The training loss, of which less is better whatever the metric.
                report(look, self._sign * figures.get("loss", math.nan))
            except Pruned as hopeless:
                raise TrainingStopped("hopeless beside the other trials") from hopeless

        clip = None if chosen.clip == NONE else parse(chosen.clip)
        try:
            record = train(
                config,
                clip,
                label=label,
                role="baseline" if clip is None else "given",
                seed=seed,
                progress=progress,
                recording=self._target,
            )
        except TrainingStopped as stopped:
            raise Pruned from stopped
        if record.interrupted:
            raise KeyboardInterrupt
        return record

    def _value(self, record: RunRecord) -> float:
        found = record.final.get(record.metric, math.nan)
        return found if math.isfinite(found) else self._worst


def target_of(db: Path, name: str) -> RecordingTarget:
    """Where the trials are recorded."""
    return RecordingTarget(db, f"{name}, tuned")
