"""The report: one page that loads nothing, and the same tables as Markdown."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from clipwise.dashboard.assets import assets
from clipwise.dashboard.document import document
from clipwise.dashboard.drawing import DARK, LIGHT
from clipwise.lab.report.page import html_table, picture_pair
from clipwise.lab.report.page_style import STYLE
from clipwise.lab.report.table import Cell, Sheet
from clipwise.lab.suite.cells import cells
from clipwise.lab.suite.picture import draw
from clipwise.lab.suite.published import comparisons
from clipwise.lab.suite.standings import Board, Tally, tally
from clipwise.lab.suite.table import board_sheet, markdown, tally_sheet
from clipwise.wording import counted

__all__ = ["Report"]

NOTES = (
    "Figures are held-out values at the end of the run. If a task has a goal, methods are compared by the"
    " number of seeds that reached it, and then by the steps that it took.",
    "The best fixed threshold is chosen afterwards from seven, and the tuned rate from six, by the same"
    " held-out data. In practice they are not known before training.",
    'A method "fails" where it diverges, or reaches the goal with fewer seeds than the best fixed threshold,'
    ' and is "alone" where it reaches the goal with more.',
    "A method that tries several rates needs one training for each; its time is the sum of all of them.",
)


@dataclass(frozen=True)
class Report:
    """The report of the finished runs of one budget.

    Attributes:
        budget: name of the budget.
        boards: the results of each task.
        environments: versions and processor of the cells, without duplicates.
        done, total: number of finished runs, and of all runs of the budget.
        absent: names of the tasks that have no finished run.
        command: the command that runs what is missing.
    """

    budget: str
    boards: Sequence[Board]
    environments: Sequence[Mapping[str, str]]
    done: int
    total: int
    absent: Sequence[str]
    command: str

    @property
    def title(self) -> str:
        lines = tally(self.boards)
        auto = next((line for line in lines if line.method.name == "auto"), None)
        if auto is None:
            return f"Clipping on {counted(len(self.boards), 'task')}"
        return (
            f"auto is within 2 % of the best fixed threshold on {auto.close} of {auto.tasks}"
            f" {'task' if auto.tasks == 1 else 'tasks'}"
        )

    def html(self) -> str:
        """The page."""
        body = [f"<main>\n<header><p>{escape(self._subtitle())}</p><h1>{escape(self.title)}</h1></header>"]
        lines = tally(self.boards)
        if lines:
            body.append(_section("Over all tasks", _scrolled(tally_sheet(lines)) + _paragraphs(NOTES)))
        published = self._published()
        if published is not None:
            body.append(_section("Published results", f'<div class="prose">{_scrolled(published)}</div>'))
        body += [self._task(board) for board in self.boards]
        body.append(_section("Reproduce it", self._reproduce()))
        body.append("</main>")
        styles = [assets()["css/base.css"].decode("utf-8"), STYLE, OWN]
        return document(self.title, "\n".join(body), styles=styles)

    def markdown(self) -> str:
        """The tables."""
        parts = [f"# {self.title}\n", *(f"- {line}" for line in self._facts()), ""]
        lines: Sequence[Tally] = tally(self.boards)
        if lines:
            sheet = tally_sheet(lines)
            parts += [f"## {sheet.title}\n", markdown(sheet), *(f"- {note}" for note in NOTES), ""]
        published = self._published()
        if published is not None:
            parts += ["## Published results\n", markdown(published)]
        for board in self.boards:
            parts += [f"## {board.task.title}\n", f"`{board.task.name}`: {board.task.about}\n"]
            parts += [f"{sentence}\n" for sentence in _so_far(board)]
            parts += [f"Failed: {sentence}\n" for sentence in board.failed]
            if board.rows:
                parts += [f"{board_sheet(board).title}.\n", markdown(board_sheet(board))]
        return "\n".join(parts)

    def _subtitle(self) -> str:
        return f"clipwise lab · budget {self.budget} · {counted(len(self.boards), 'task')}" + (
            f" · {self._so_far()}" if self.done < self.total else ""
        )

    def _so_far(self) -> str:
        return f"{self.done:,} of {counted(self.total, 'run')} done"

    def _facts(self) -> list[str]:
        seeds = max((len(row.results) for board in self.boards for row in board.rows), default=0)
        return [
            f"budget: {self.budget}, {counted(seeds, 'seed')}"
            + (f", {self._so_far()}" if self.done < self.total else ""),
            *([f"no finished run of: {', '.join(self.absent)}"] if self.absent else []),
            *(", ".join(f"{name} {value}" for name, value in each.items()) for each in self.environments),
            f"command: `{self.command}`",
        ]

    def _reproduce(self) -> str:
        pre = f'<pre class="command">{escape(self.command)}</pre>'
        return pre + _paragraphs(self._facts()[:-1])

    def _published(self) -> Sheet | None:
        found = comparisons(self.boards)
        if not found:
            return None
        rows = tuple((Cell(one.source), Cell(one.said), Cell(one.ours), Cell(one.sentence)) for one in found)
        return Sheet(
            "Published results and the results here", ("source", "published", "here", "conclusion"), rows
        )

    def _task(self, board: Board) -> str:
        task = board.task
        content = f"<p>{escape(task.about)}</p>"
        content += _paragraphs(_so_far(board))
        content += "".join(f"<p><strong>Failed:</strong> {escape(said)}</p>" for said in board.failed)
        if board.rows:
            pictures = picture_pair(
                draw(board, LIGHT), draw(board, DARK), f"{task.title}. The figures are in the table below."
            )
            content += f'<div class="scroll" tabindex="0">{pictures}</div>{_scrolled(board_sheet(board))}'
        return _section(task.title, content, task.name)


def _so_far(board: Board) -> list[str]:
    """How many runs of a task are there, where some are missing."""
    done = sum(len(row.results) for row in board.rows)
    total = len(cells([board.task], board.budget))
    return [f"So far {done} of {counted(total, 'run')}."] if done < total else []


OWN = """\
section > p:first-of-type { margin-top: 0; }
.prose th, .prose td { text-align: left; vertical-align: top; white-space: normal; }
.prose tbody th { font: inherit; min-width: 10rem; }
.prose td span { white-space: normal; }
"""


def _section(title: str, content: str, anchor: str = "") -> str:
    named = f' id="{escape(anchor)}"' if anchor else ""
    return f'<section{named} aria-label="{escape(title)}"><h2>{escape(title)}</h2>\n{content}</section>'


def _scrolled(sheet: Sheet) -> str:
    return f'<div class="scroll" tabindex="0">{html_table(sheet)}</div>'


def _paragraphs(sentences: Sequence[str]) -> str:
    return "".join(f"<p><small>{escape(sentence)}</small></p>" for sentence in sentences)
