"""``clipwise data clip``: clip outliers in a file."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from clipwise.errors import ArgumentError
from clipwise.files import check_new, save

if TYPE_CHECKING:
    from rich.progress import Progress

    from clipwise.data.files import ClippedFile

__all__ = ["data"]

STAGES = ("learning", "counting", "writing")


@click.group()
def data() -> None:
    """Clip data: outliers are clipped to bounds (winsorizing)."""


@data.command("clip")
@click.argument("source", type=click.Path(path_type=Path), metavar="IN")
@click.argument("target", type=click.Path(path_type=Path), metavar="OUT")
@click.option("--quantiles", type=float, nargs=2, metavar="LOW HIGH", help="Bounds at two quantiles.")
@click.option("--iqr", type=float, metavar="F", help="Quartiles -+ F interquartile ranges (Tukey: 1.5).")
@click.option("--mad", type=float, metavar="F", help="Median -+ F * 1.4826 median absolute deviations.")
@click.option("--deviations", type=float, metavar="F", help="Mean -+ F standard deviations.")
@click.option("--given", type=float, nargs=2, metavar="LOW HIGH", help="Fixed bounds (-inf or inf for none).")
@click.option(
    "--bounds", type=click.Path(path_type=Path), metavar="FILE", help="Bounds from a file of --save-bounds."
)
@click.option("--columns", metavar="A,B", multiple=True, help="Columns to clip.  [default: all numeric ones]")
@click.option(
    "--side",
    type=click.Choice(["both", "low", "high"]),
    default="both",
    show_default=True,
    help="The side to clip.",
)
@click.option(
    "--save-bounds", type=click.Path(path_type=Path), metavar="FILE", help="Write the bounds as JSON."
)
@click.option(
    "--rank-error", type=float, metavar="E", help="Largest rank error of a quantile.  [default: 0.0001]"
)
@click.option("--memory", type=int, metavar="MB", help="Memory for DuckDB in megabytes.  [default: 256]")
@click.option("--force", is_flag=True, help="Replace OUT, and the file of --save-bounds.")
def clip(
    source: Path,
    target: Path,
    bounds: Path | None,
    columns: tuple[str, ...],
    side: str,
    save_bounds: Path | None,
    force: bool,
    **options: Any,
) -> int:
    """Clip the numeric columns of a Parquet or CSV file of any size, in bounded memory.

    File names give the formats: .csv or .tsv (also .gz and .zst), otherwise .parquet. Exactly one of
    --quantiles, --iqr, --mad, --deviations, --given and --bounds defines the bounds. Everything else is kept:
    rows and their order, other columns, types, NaN and nulls; in CSV every character that is not clipped. OUT
    appears when it is complete.

    Example: clipwise data clip in.parquet out.parquet --quantiles 0.01 0.99 --columns amount,price
    """
    method, arguments = _method(options, bounds)
    arguments |= {name: options[name] for name in ("rank_error", "memory") if options[name] is not None}
    if save_bounds is not None:
        _check_free(save_bounds, source, target, force)
    from clipwise.data.files import clip_file

    with _bar() as bar:
        tasks = {stage: bar.add_task(stage, total=1.0, visible=False) for stage in STAGES}

        def told(stage: str, share: float) -> None:
            bar.update(tasks[stage], completed=share, visible=True)

        if columns:
            arguments["columns"] = _names(source, columns)
        with _sentences():
            done = clip_file(source, target, method, side=side, force=force, progress=told, **arguments)  # type: ignore[arg-type]
    if save_bounds is not None:
        save(save_bounds, f"{done.bounds.to_json()}\n".encode(), force=force)
    # What goes into a pipe is the file alone.
    to_stderr = not target.is_file()
    for line in _lines(done) + ([] if save_bounds is None else [f"bounds in {save_bounds}"]):
        click.echo(line, err=to_stderr)
    return 0


def _method(options: dict[str, Any], bounds: Path | None) -> tuple[Any, dict[str, Any]]:
    """The one way that was asked for."""
    names = ("quantiles", "iqr", "mad", "deviations", "given")
    asked = [name for name in names if options[name] is not None] + ["bounds"] * (bounds is not None)
    if len(asked) != 1:
        got = "none" if not asked else " and ".join(f"--{name}" for name in asked)
        every = ", ".join(f"--{name}" for name in names)
        raise ArgumentError(f"give exactly one of {every} and --bounds, got {got}")
    if bounds is not None:
        from clipwise.data import Bounds

        try:
            return Bounds.from_json(bounds.read_text(encoding="utf-8")), {}
        except (OSError, UnicodeDecodeError) as error:
            raise ArgumentError(f"{bounds} cannot be read ({error})") from error
    (name,) = asked
    if name in ("quantiles", "given"):
        return name, {"low": options[name][0], "high": options[name][1]}
    return name, {"factor": options[name]}


def _names(source: Path, columns: tuple[str, ...]) -> list[str]:
    """What --columns names: a column itself, or several with commas between."""
    from clipwise.data.files import column_names

    known = column_names(source)
    names: list[str] = []
    for text in columns:
        parts = [text] if text in known else text.split(",")
        names += [part if part in known else part.strip() for part in parts if part.strip()]
    return names


def _check_free(place: Path, source: Path, target: Path, force: bool) -> None:
    for other, what in ((source, "the file that is read"), (target, "the new file itself")):
        if os.path.realpath(place) == os.path.realpath(other):
            raise ArgumentError(f"--save-bounds names {what}, {place}")
    check_new(place, force)


def _bar() -> "Progress":
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description:9}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


@contextmanager
def _sentences() -> Iterator[None]:
    """Warnings as sentences, without the place in the code."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        yield
    for warning in caught:
        click.echo(f"Warning: {warning.message}", err=True)


def _lines(done: "ClippedFile") -> list[str]:
    lines = [str(one) for one in done.report]
    if done.rank_error:
        lines.append(f"quantiles within {done.rank_error:.2g} of their rank, with 99 % confidence")
    return [*lines, f"{done.rows:,} rows in {done.path}"]
