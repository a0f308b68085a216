"""The finished cells of each task, method by method, the seeds taken together, and how they compare."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from clipwise.lab.compare.figures import error
from clipwise.lab.compare.groups import Group, Spread
from clipwise.lab.suite.budgets import BudgetName
from clipwise.lab.suite.cells import Cell, Key
from clipwise.lab.suite.methods import Method
from clipwise.lab.suite.store import Finished
from clipwise.lab.suite.task import Result, SuiteTask

__all__ = ["CLOSE", "Board", "Row", "Tally", "boards", "tally"]

CLOSE = 0.02
"""Up to so much worse counts as the same."""


@dataclass(frozen=True)
class Row:
    """One method on one task, all seeds."""

    method: Method
    results: tuple[Result, ...]

    @property
    def group(self) -> Group:
        return Group(tuple(result.figures for result in self.results))

    @property
    def solved(self) -> int:
        """Seeds that reached the goal of the task."""
        return sum(run.steps_to_target is not None for run in self.group.runs)

    @property
    def steps(self) -> Spread:
        """Steps to the goal, infinite for seeds that never reached it."""
        return self.group.spread("steps_to_target")

    @property
    def diverged(self) -> bool:
        """Whether the median seed did."""
        return 2 * len(self.group.diverged) >= len(self.results) or not math.isfinite(self.group.final.median)

    @property
    def error(self) -> float:
        """The median of the final errors; infinite where the median seed diverged."""
        group = self.group
        return math.inf if self.diverged else error(group.final.median, lower_is_better=group.lower_is_better)


@dataclass(frozen=True)
class Board:
    """One task: its rows in the order of the methods.

    Attributes:
        task: the task.
        budget: budget with which it was run.
        rows: one row for each method that has finished cells.
        failed: errors of the cells that failed, without duplicates.
    """

    task: SuiteTask
    budget: BudgetName
    rows: tuple[Row, ...]
    failed: tuple[str, ...] = ()

    @property
    def has_fixed(self) -> bool:
        """Whether there are fixed thresholds, and something beside one of them, to compare."""
        return len(self.rows) > 1 and any(row.method.role == "fixed" for row in self.rows)

    def standing(self, row: Row) -> tuple[float, float, float]:
        """What rows are ordered by, the best first."""
        if self.task.goal is None:
            return (0.0, 0.0, row.error)
        return (-row.solved / len(row.results), row.steps.median, row.error)

    def best(self, *roles: str) -> Row | None:
        """The best row with one of these roles, or of all; None where every one diverged."""
        rows = [row for row in self.rows if not row.diverged and (not roles or row.method.role in roles)]
        return min(rows, key=self.standing, default=None)

    def shortfall(self, row: Row, other: Row | None) -> float:
        """Relative amount by which a row is worse than another; negative if it is better.

        If the task has a goal that the other row reached, the steps to the goal are compared, and fewer
        solved seeds count as infinitely worse. Otherwise the errors are compared, by their difference where
        the other row has none.
        """
        if row.diverged:
            return math.inf
        if other is None:
            return -math.inf
        if self.task.goal is not None and max(row.solved, other.solved):
            mine, theirs = (one.solved / len(one.results) for one in (row, other))
            if mine != theirs:
                return math.inf if mine < theirs else -math.inf
            steps, other_steps = row.steps.median, other.steps.median
            if math.isfinite(steps) and math.isfinite(other_steps):
                return steps / other_steps - 1
        return (row.error - other.error) / (abs(other.error) or 1.0)


@dataclass(frozen=True)
class Tally:
    """One method over all tasks, against the best fixed threshold of each.

    Attributes:
        method: the method.
        tasks: number of tasks on which it was run.
        close: number of tasks on which it is at most 2 % worse.
        better: number of tasks on which it is better.
        diverged: number of tasks on which the median seed diverged.
        worst: its largest shortfall, and the task on which it occurred.
    """

    method: Method
    tasks: int
    close: int
    better: int
    diverged: int
    worst: tuple[float, str]


def boards(tasks: Iterable[SuiteTask], budget: BudgetName, finished: Mapping[Key, Finished]) -> list[Board]:
    """What is finished, task by task; tasks without anything are left out, and cells of old settings, too."""
    found = []
    for task in tasks:
        if budget not in task.sizes:
            continue
        rows, failed = [], dict[str, None]()
        for method in task.methods.values():
            ours = _cells(task, method, budget, finished)
            results = tuple(cell.result for cell in ours if cell.result is not None)
            failed |= {cell.error: None for cell in ours if cell.result is None}
            if results:
                rows.append(Row(method, results))
        if rows or failed:
            found.append(Board(task, budget, tuple(rows), tuple(failed)))
    return found


def _cells(
    task: SuiteTask, method: Method, budget: BudgetName, finished: Mapping[Key, Finished]
) -> list[Finished]:
    """In the order of the seeds, however many there are."""
    setting = Cell(task, method, 0, budget).key.setting
    keys = [
        key
        for key in finished
        if (key.task, key.method, key.budget, key.setting) == (task.name, method.name, budget, setting)
    ]
    return [finished[key] for key in sorted(keys, key=lambda key: key.seed)]


def tally(boards: Sequence[Board]) -> list[Tally]:
    """One line a method, over the tasks that have fixed thresholds and something beside them."""
    falls: dict[str, list[tuple[float, str]]] = {}
    methods: dict[str, Method] = {}
    for board in boards:
        if not board.has_fixed:
            continue
        reference = board.best("fixed")
        for row in board.rows:
            methods[row.method.name] = row.method
            falls.setdefault(row.method.name, []).append((board.shortfall(row, reference), board.task.name))
    return [
        Tally(
            methods[name],
            len(each),
            sum(fall <= CLOSE for fall, _ in each),
            sum(fall < 0 for fall, _ in each),
            sum(
                row.diverged
                for board in boards
                for row in board.rows
                if row.method.name == name and (math.inf, board.task.name) in each
            ),
            max(each),
        )
        for name, each in falls.items()
    ]
