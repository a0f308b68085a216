"""The commands and their options."""

import importlib
import json
from pathlib import Path
from typing import Any

import click

from clipwise.cli.check import check
from clipwise.cli.dashboard import dashboard, report
from clipwise.cli.data import data
from clipwise.cli.lab import lab
from clipwise.cli.observe import observe
from clipwise.cli.runs import runs
from clipwise.cli.source import recording
from clipwise.cli.suggest import suggest
from clipwise.cli.tune import tune

__all__ = ["cli"]

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


class Deferred(click.Command):
    """A command that is imported when it is called, since the options of `export` come from its exporters."""

    def __init__(self, name: str, module: str, summary: str) -> None:
        super().__init__(name, help=summary)
        self._module = module

    def make_context(self, *args: Any, **options: Any) -> click.Context:
        command: click.Command = getattr(importlib.import_module(self._module), str(self.name))
        return command.make_context(*args, **options)


@click.group(context_settings=CONTEXT)
@click.version_option(package_name="clipwise", prog_name="clipwise")
def cli() -> None:
    """Gradient clipping: train, compare, record, recommend a threshold."""


def _common(command: Any) -> Any:
    """The options of both trainings, and the configuration they override."""
    options = [
        click.argument("config", type=click.Path(path_type=Path)),
        click.option("--seed", type=int, metavar="N", help="The seed, or the first of several."),
        click.option(
            "--steps",
            type=int,
            metavar="N",
            help="Number of steps, instead of the configured steps or epochs.",
        ),
        click.option("--device", metavar="D", help="Device: auto, cpu, cuda or mps."),
        click.option("--devices", type=int, metavar="N", help="Number of devices."),
        click.option(
            "--strategy", metavar="S", help="ddp: each device holds the whole model; fsdp: a shard of it."
        ),
        click.option("--precision", metavar="P", help="Precision: 32, bf16 or 16."),
        click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="Folder for the results."),
        recording("The recording, which clipwise dashboard shows live."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


@cli.command()
@_common
@click.option(
    "--clip",
    metavar="EXPR",
    help="A clip instead of the configured one, e.g. 'clip_by_norm(1.0)', auto, none.",
)
@click.option("--force", is_flag=True, help="Replace the weights (model.pt) of an earlier training.")
def train(config: Path, clip: str | None, out: Path | None, db: Path, force: bool, **overrides: Any) -> int:
    """Train the model that CONFIG (a JSON or YAML file) describes.

    Results, including the trained weights in model.pt, are saved in clipwise-results/<name of CONFIG>-train,
    or in the folder of --out. Existing weights are not replaced without --force. docs/training.md lists all
    keys of CONFIG.

    Example: clipwise train examples/chatbot-gru.json --clip auto
    """
    from clipwise.cli.session import train_command

    return train_command(config, clip=clip, out=out, db=db, force=force, overrides=overrides)


@cli.command()
@_common
@click.option(
    "--clip",
    "clips",
    multiple=True,
    metavar="EXPR",
    help="Another clip to run; may be given several times.",
)
@click.option(
    "--seeds",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    metavar="N",
    help="Seeds for each clip.",
)
@click.option("--no-auto", is_flag=True, help="Do not run clipwise's automatic threshold.")
@click.option("--no-baseline", is_flag=True, help="Do not run without clipping.")
@click.option("--target", type=float, metavar="VALUE", help="Held-out metric; shows when it is reached.")
@click.option("--resume", is_flag=True, help="Reuse the recorded runs that an earlier call finished.")
@click.option("--open", "show", is_flag=True, help="Open the page in the browser at the end.")
def compare(config: Path, out: Path | None, db: Path, **options: Any) -> int:
    """Train CONFIG without clipping, as configured, with each --clip and with auto, and compare the runs.

    Prints the results and saves figures (JSON, CSV), a picture and a page in clipwise-results/<name of
    CONFIG>, or in the folder of --out. Ctrl-C saves what was trained so far. After that, or after a crash,
    continue with --resume. docs/training.md lists all keys of CONFIG.

    Example: clipwise compare examples/shakespeare-lstm-sgd.json --clip 'clip_by_global_norm(1.0)' --seeds 3
    """
    from clipwise.cli.session import compare_command

    return compare_command(config, out=out, db=db, **options)


@cli.command()
def schema() -> None:
    """Print the JSON Schema of clip configurations, for editors."""
    from clipwise.config import schema as clip_schema

    click.echo(json.dumps(clip_schema(), indent=2))


cli.add_command(suggest)
cli.add_command(check)
cli.add_command(
    Deferred(
        "export",
        "clipwise.cli.export",
        "Export a recorded RUN (its name or number; by default the newest) to another tool.",
    )
)
cli.add_command(observe)
cli.add_command(runs)
cli.add_command(dashboard)
cli.add_command(report)
cli.add_command(tune)
cli.add_command(lab)
cli.add_command(data)
