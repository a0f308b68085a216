"""Facts, one table and its notes, on the terminal and in files: what several benchmarks have in common."""

import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

WIDTH = 160


@dataclasses.dataclass(frozen=True)
class Sheet:
    """A table whose last column says whether the goal is reached: ``"yes"``, ``"no ..."`` or other."""

    title: str
    facts: Mapping[str, str]
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()

    def show(self) -> None:
        """Print it, as wide as the terminal is."""
        console = Console() if sys.stdout.isatty() else Console(width=WIDTH)
        for name, value in self.facts.items():
            console.print(f"{name}: {value}", highlight=False)
        table = Table(*self.header, box=box.SIMPLE_HEAD)
        for *cells, reached in self.rows:
            style = "green" if reached == "yes" else "red" if reached.startswith("no") else ""
            table.add_row(*cells, Text(reached, style=style))
        console.print(table)
        for note in self.notes:
            console.print(note, style="dim", highlight=False)

    def markdown(self) -> str:
        text = [f"# {self.title}", "", *(f"- {name}: {value}" for name, value in self.facts.items()), ""]
        text += ["| " + " | ".join(self.header) + " |", "|" + " --- |" * len(self.header)]
        text += ["| " + " | ".join(row) + " |" for row in self.rows]
        for note in self.notes:
            text += ["", note]
        return "\n".join([*text, ""])

    def save(self, markdown: Path | None, figures: Path | None = None, measured: Sequence[Any] = ()) -> None:
        """Write the table, and all figures (dataclasses) as JSON, where a file is given."""
        if markdown:
            markdown.write_text(self.markdown(), encoding="utf-8")
        if figures:
            found = {"facts": dict(self.facts), "rows": [dataclasses.asdict(row) for row in measured]}
            figures.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
