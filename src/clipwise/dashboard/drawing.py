"""Shared parts of all charts: colours for light and dark pages, panels, PNG output."""

from dataclasses import dataclass
from io import BytesIO
from typing import Any

BAD = "#c4320a"


@dataclass(frozen=True)
class Look:
    """Colours: background, text, secondary text, grid."""

    paper: str
    ink: str
    quiet: str
    grid: str


LIGHT = Look(paper="#ffffff", ink="#1f2328", quiet="#59636e", grid="#e6e8eb")
DARK = Look(paper="#161b22", ink="#e6edf3", quiet="#8d96a0", grid="#2b323b")


def blank(height: float, look: Look) -> Any:
    """An empty matplotlib figure, 1950 pixels wide, with this height in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    engine = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1, wspace=0.03, hspace=0.05)
    figure = Figure(figsize=(13, height), dpi=150, facecolor=look.paper, layout=engine)
    FigureCanvasAgg(figure)
    return figure


def headed(figure: Any, title: str, look: Look, size: float = 15) -> None:
    """A title above the figure; a dollar sign does not start a formula."""
    figure.suptitle(
        title, fontsize=size, fontweight="bold", color=look.ink, x=0.012, ha="left", parse_math=False
    )


def dress(axis: Any, look: Look) -> None:
    """Style a panel: no frame, a light grid."""
    axis.set_facecolor(look.paper)
    axis.grid(True, color=look.grid, linewidth=0.8)
    axis.set_axisbelow(True)
    axis.tick_params(which="both", colors=look.quiet, labelsize=10, length=0)
    for name, spine in axis.spines.items():
        spine.set_visible(name in ("left", "bottom"))
        spine.set_color(look.grid)


def caption(axis: Any, title: str, note: str, look: Look) -> None:
    """The title of a panel, and on its right how to read it."""
    axis.set_title(title, loc="left", fontsize=12, fontweight="bold", color=look.ink, pad=10)
    axis.set_title(note, loc="right", fontsize=9.5, color=look.quiet, pad=10, parse_math=False)


def shorten(text: str, length: int) -> str:
    """A text of at most so many characters, shortened in the middle, since long names differ at their ends.

    >>> shorten("clip_by_global_norm(0.5)", 13), shorten("auto()", 13)
    ('clip_b…m(0.5)', 'auto()')
    """
    if len(text) <= length:
        return text
    head = length // 2
    return text[:head] + "…" + text[len(text) - (length - 1 - head) :]


def png(figure: Any, look: Look) -> bytes:
    """The figure as PNG."""
    out = BytesIO()
    figure.savefig(out, format="png", facecolor=look.paper, metadata={"Software": "clipwise"})
    return out.getvalue()
