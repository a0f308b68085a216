"""Tables and sentences for a terminal or a pipe, shared by `suggest` and `runs`."""

import os
from collections.abc import Collection

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

PLAIN_WIDTH = 80
"""Columns in a file or a pipe, where there is no terminal to ask."""


def plain_console(width: int = PLAIN_WIDTH) -> Console:
    """A console on stdout; ``width`` columns wide if stdout is not a terminal and COLUMNS is not set."""
    console = Console(highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console = Console(highlight=False, width=width)
    return console


def table(title: str, *columns: str, left: Collection[str] = ()) -> Table:
    """A table without a frame.

    Args:
        title: "" for none.
        columns: names of the columns.
        left: columns of text, aligned left; numbers are aligned right.
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
    """A sentence as an item of a list."""
    grid = Table.grid(padding=(0, 1))
    grid.add_row(Text("•", style="dim"), Text(sentence))
    return grid
