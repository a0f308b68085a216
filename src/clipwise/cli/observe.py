"""``clipwise observe``: record an unmodified training script."""

from pathlib import Path

import click

from clipwise.cli.source import recording


class Command(click.Command):
    """A click command in which ``-m`` starts the observed command, as in Python."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        flags = {name for one in self.get_params(ctx) for name in one.opts if getattr(one, "is_flag", False)}
        place = 0
        while place < len(args) and args[place].startswith("-") and args[place] != "--":
            if args[place] == "-m":
                args = [*args[:place], "--", *args[place:]]
                break
            place += 1 if args[place] in flags or "=" in args[place] else 2
        return super().parse_args(ctx, args)


@click.command(cls=Command, context_settings={"allow_interspersed_args": False})
@click.option(
    "--clip",
    metavar="EXPR",
    help="Clip every PyTorch and Keras optimizer, e.g. 'clip_by_global_norm(1.0)'.  [default: only measure]",
)
@recording("The recording; one file holds any number of runs.")
@click.option("--run", "name", metavar="NAME", help="Name of the run.  [default: script and time]")
@click.option(
    "--every",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    metavar="N",
    help="Record every N-th step.",
)
@click.option(
    "--layers-every",
    type=click.IntRange(min=0),
    default=10,
    show_default=True,
    metavar="N",
    help="Record all parameters' norms in every N-th step; 0: only in steps with NaN or Inf.",
)
@click.option("--open", "show", is_flag=True, help="Open the live page while it runs.")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def observe(
    clip: str | None,
    db: Path,
    name: str | None,
    every: int,
    layers_every: int,
    show: bool,
    command: tuple[str, ...],
) -> int:
    """Run COMMAND, and record the gradient norms and the loss of every training step in it.

    The script runs unmodified, and its results are bit-identical unless --clip is given. COMMAND is any
    program, a script (train.py), or -m and a module. The exit code is that of COMMAND.

    Example: clipwise observe -- python train.py --epochs 3
    """
    from clipwise.monitor.observe import observe as run

    return run(command, clip=clip, db=db, name=name, every=every, layers_every=layers_every, show=show)
