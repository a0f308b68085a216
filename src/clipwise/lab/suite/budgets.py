"""How much is trained: the seeds, and of each task's sizes the one to take."""

from typing import Literal, TypeAlias, get_args

__all__ = ["BUDGETS", "SEEDS", "BudgetName"]

BudgetName: TypeAlias = Literal["tiny", "small", "full"]

BUDGETS: tuple[BudgetName, ...] = get_args(BudgetName)

SEEDS: dict[BudgetName, int] = {"tiny": 1, "small": 1, "full": 3}
"""Runs of each method on each task. ``tiny`` only shows that everything runs."""
