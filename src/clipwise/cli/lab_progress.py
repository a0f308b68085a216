"""Output of ``clipwise lab run``: one line for each finished run, and progress bars on a terminal."""

import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from rich import progress as bars
from rich.console import Console
from rich.table import Column
from rich.text import Text

from clipwise.cli.display import say
from clipwise.errors import StoreError
from clipwise.lab.compare.wording import value_of
from clipwise.wording import duration, number

if TYPE_CHECKING:
    from clipwise.lab.record import Progress
    from clipwise.lab.suite.cells import Cell
    from clipwise.lab.suite.task import Result
    from clipwise.lab.suite.work import State

__all__ = ["Bars", "Lines", "shown_progress"]


class Lines:
    """One line a finished cell, with the time left."""

    piped = False
    """Whether the further processes of a call speak through `follow`."""

    def begin(self, cell: "Cell", state: "State") -> "Progress | None":
        return None

    def end(self, cell: "Cell", result: "Result | None", error: str, state: "State") -> None:
        said = f"failed: {error}" if result is None else f"{_outcome(result)} ({duration(result.seconds)})"
        left = f"; about {duration(state.left)} left" if state.left else ""
        self._say(f"[{state.done + state.failed}/{state.total}] {cell}: {said}{left}")

    def _say(self, line: str) -> None:
        say(line)

    def follow(self, process: "subprocess.Popen[str]") -> None:
        """Show what a further process says; one that is not piped writes to the same place by itself."""


class Bars(Lines):
    """The same, above a bar of the whole call with the time left, and one of the run of this process.

    Args:
        progress: where they are drawn.
        now: how far all processes are, asked when another one has said something.
    """

    piped = True

    def __init__(self, progress: bars.Progress, now: "Callable[[], State]") -> None:
        self._progress, self._now = progress, now
        self._all = progress.add_task("all runs", total=None, left=None, at=0.0, figures="")
        self._one: bars.TaskID | None = None
        self._readers: list[threading.Thread] = []

    def begin(self, cell: "Cell", state: "State") -> "Progress | None":
        self._show(state)
        one = self._one = self._progress.add_task(
            str(cell), total=None, left=None, at=0.0, figures="preparing"
        )

        def update(step: int, total: int, figures: Mapping[str, float]) -> None:
            loss = f"loss {number(figures['loss'], 3)}" if "loss" in figures else ""
            self._progress.update(one, completed=step, total=total, figures=loss)

        return update

    def end(self, cell: "Cell", result: "Result | None", error: str, state: "State") -> None:
        if self._one is not None:
            self._progress.remove_task(self._one)
        super().end(cell, result, error, state)
        self._show(state)

    def follow(self, process: "subprocess.Popen[str]") -> None:
        self._readers.append(threading.Thread(target=self._read, args=(process,), daemon=True))
        self._readers[-1].start()

    def close(self) -> None:
        """Everything is shown that the further processes, which have ended, have said."""
        for reader in self._readers:
            reader.join()

    def _read(self, process: "subprocess.Popen[str]") -> None:
        assert process.stderr is not None
        for line in process.stderr:
            self._say(line.rstrip("\n"))
            with suppress(StoreError):  # busy just now: the next line says it
                self._show(self._now())

    def _say(self, line: str) -> None:
        # Only the console of the bars knows where they are.
        self._progress.console.print(Text(line), soft_wrap=True)

    def _show(self, state: "State") -> None:
        done = state.done + state.failed
        self._progress.update(
            self._all, completed=done, total=state.total, left=state.left, at=time.monotonic()
        )


class _Left(bars.ProgressColumn):
    """The time left as it was told last, less what has passed since then."""

    def render(self, task: bars.Task) -> Text:
        if task.fields["left"] is None:
            return Text(task.fields["figures"], style="cyan")
        left = task.fields["left"] - (time.monotonic() - task.fields["at"])
        return Text(f"about {duration(left)} left" if left > 0 else "")


@contextmanager
def shown_progress(now: "Callable[[], State]", console: Console | None = None) -> Iterator[Lines]:
    """Bars on a terminal, plain lines elsewhere.

    Args:
        now: how far all processes are.
        console: stderr unless given.
    """
    console = console or Console(stderr=True, highlight=False)
    if not console.is_terminal:
        yield Lines()
        return
    name = bars.TextColumn("{task.description}", table_column=Column(no_wrap=True, ratio=1))
    columns = (name, bars.BarColumn(bar_width=18), bars.MofNCompleteColumn(), _Left())
    with bars.Progress(*columns, console=console, transient=True, refresh_per_second=4) as progress:
        shown = Bars(progress, now)
        shown._show(now())
        try:
            yield shown
        finally:
            shown.close()


def _outcome(result: "Result") -> str:
    figures = result.figures
    if figures.diverged:
        return "diverged"
    reached = figures.steps_to_target
    solved = "" if reached is None else f", {number(figures.target)} reached at step {reached}"
    return value_of(figures.metric, figures.final) + solved
