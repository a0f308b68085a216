"""``clipwise export``: a recorded run in another tool."""

from pathlib import Path
from typing import Any

import click

from clipwise.errors import ArgumentError

__all__ = ["export"]

TOOLS = ("tensorboard", "wandb", "mlflow", "trackio", "csv", "parquet")


@click.command()
@click.argument("run", required=False)
@click.option("--to", "tool", required=True, type=click.Choice(TOOLS), help="The tool, or the kind of file.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="File (csv, parquet) or folder; runs for tensorboard, this folder for csv and parquet, otherwise"
    " where the tool keeps its runs.",
)
@click.option(
    "--db",
    type=click.Path(path_type=Path),
    default=Path("clipwise.db"),
    show_default=True,
    metavar="FILE",
    help="The recording.",
)
@click.option(
    "--project", metavar="NAME", help="Of wandb, mlflow (experiment) or trackio.  [default: clipwise]"
)
@click.option("--force", is_flag=True, help="Replace what is there (tensorboard, csv, parquet).")
def export(run: str | None, tool: str, out: Path | None, db: Path, project: str | None, force: bool) -> int:
    """Write a recorded RUN, its number or its name, the newest without either, for another tool.

    Every series goes with its steps and times, the norms of single parameters, and the alerts. Nothing leaves
    the machine, unless WANDB_MODE or MLFLOW_TRACKING_URI asks for that.

    Example: clipwise export lstm --to tensorboard --out runs
    """
    from clipwise.monitor import exporters
    from clipwise.monitor.store import Store

    place: dict[str, Any] = {} if out is None else {"path" if tool in ("csv", "parquet") else "folder": out}
    if tool in ("wandb", "mlflow", "trackio"):
        if force:
            raise ArgumentError(f"--force has nothing to replace: each export to {tool} is a run of its own")
        if project is not None:
            place["experiment" if tool == "mlflow" else "project"] = project
    elif project is not None:
        raise ArgumentError(f"--project is for wandb, mlflow and trackio, not for {tool}")
    else:
        place["force"] = force
    try:
        with Store(db) as store:
            fed = getattr(exporters, f"to_{tool}")(store, run, **place)
    except OSError as error:
        raise ArgumentError(f"the export cannot be written: {error}") from error
    parts = [_count(fed.steps, "step"), f"{fed.series} series"]
    parts += [f"norms of {_count(fed.layers, 'parameter')}"] if fed.layers else []
    parts += [_count(fed.alerts, "alert")] if fed.alerts else []
    click.echo(f"run {fed.run.name!r}: {', '.join(parts)}")
    click.echo(f"in {fed.place}")
    hint = _next(tool, fed.place, out)
    if hint:
        click.echo(f"next: {hint}")
    return 0


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def _next(tool: str, place: str, out: Path | None) -> str:
    """The command that shows it."""
    import os
    import shlex

    if tool == "tensorboard":
        return shlex.join(["tensorboard", "--logdir", str(Path(place).parent)])
    if tool == "wandb" and Path(place).name.startswith("offline-run-"):
        return shlex.join(["wandb", "sync", place])
    if tool == "mlflow":
        uri = place.partition(" of ")[2]
        return shlex.join(["mlflow", "ui", "--backend-store-uri", uri])
    if tool == "trackio":
        prefix = "" if out is None or "TRACKIO_DIR" in os.environ else f"TRACKIO_DIR={shlex.quote(place)} "
        return f"{prefix}trackio show"
    return ""
