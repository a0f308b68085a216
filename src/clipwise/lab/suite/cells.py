"""One cell of the table: a task, a method, a seed and a budget."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from clipwise.lab.suite.budgets import SEEDS, BudgetName
from clipwise.lab.suite.methods import Method
from clipwise.lab.suite.task import SuiteTask

__all__ = ["Cell", "Key", "cells"]


@dataclass(frozen=True)
class Key:
    """The key of a cell in the store.

    Attributes:
        task, method, seed, budget: of the cell.
        setting: hash of everything that the results depend on, so that a changed task has new cells.
    """

    task: str
    method: str
    seed: int
    budget: str
    setting: str


@dataclass(frozen=True)
class Cell:
    """One requested run."""

    task: SuiteTask
    method: Method
    seed: int
    budget: BudgetName

    @property
    def key(self) -> Key:
        setting = [self.task.setting(self.budget), self.method.clip, [str(v) for v in self.method.variants]]
        digest = hashlib.sha256(json.dumps(setting, sort_keys=True).encode()).hexdigest()[:12]
        return Key(self.task.name, self.method.name, self.seed, self.budget, digest)

    @property
    def seconds(self) -> float:
        """Estimated seconds on one core."""
        # What diverges ends early, so that further rates cost less than they would.
        return self.task.seconds[self.budget] * (1 + 0.6 * (len(self.method.variants) - 1))

    def __str__(self) -> str:
        return f"{self.task.name}, {self.method.label}, seed {self.seed}"


def cells(
    tasks: Iterable[SuiteTask],
    budget: BudgetName,
    *,
    methods: Sequence[str] = (),
    seeds: int | None = None,
) -> list[Cell]:
    """All requested cells, ordered by seed, so that the results so far always form a table.

    Args:
        tasks: the tasks; those that have no size for the budget are left out.
        budget: name of the budget.
        methods: names of methods; all by default. A task ignores methods that it does not support.
        seeds: number of seeds; by default that of the budget.
    """
    tasks = [task for task in tasks if budget in task.sizes]
    return [
        Cell(task, method, seed, budget)
        for seed in range(SEEDS[budget] if seeds is None else seeds)
        for task in tasks
        for method in task.methods.values()
        if task.runs(method) and (not methods or method.name in methods)
    ]
