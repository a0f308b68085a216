"""Tables and sentences on a terminal, and in a pipe: what `suggest` and `runs` have in common."""

import os
from collections.abc import Collection

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

PLAIN_WIDTH = 80
"""Columns in a file or a pipe, where there is no terminal to ask."""


def plain_console(width: int = PLAIN_WIDTH) -> Console:
    """For stdout; so wide where that is no terminal, and nothing else is asked for."""
    console = Console(highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console = Console(highlight=False, width=width)
    return console


def table(title: str, *columns: str, left: Collection[str] = ()) -> Table:
    """A table without a frame.

    Args:
        title: "" for none.
        columns: their names.
        left: those of texts; numbers stand to the right.
    """
    found = Table(
        title=title or None,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        show_edge=False,
    )
    for name in columns:
        found.add_column(Text(name), justify="left" if name in left else "right", overflow="fold")
    return found


def bullet(sentence: str) -> Table:
    """A sentence of a list."""
    grid = Table.grid(padding=(0, 1))
    grid.add_row(Text("•", style="dim"), Text(sentence))
    return grid
