"""The source of a command's runs: a recording of clipwise, or the log of another tool."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from clipwise.errors import ArgumentError

if TYPE_CHECKING:
    from clipwise.monitor.store import Store

F = TypeVar("F", bound=Callable[..., Any])


def recording(help: str = "The recording.") -> Callable[[F], F]:
    """The option for the recording: ``db``."""
    return click.option(
        "--db",
        type=click.Path(path_type=Path),
        default=Path("clipwise.db"),
        show_default=True,
        metavar="FILE",
        help=help,
    )


def from_log(command: F) -> F:
    """The options for a log: ``log``, ``norm`` and ``loss``."""
    options = (
        click.option(
            "--from",
            "log",
            type=click.Path(path_type=Path),
            metavar="LOG",
            help="A log instead of a recording: trainer_state.json, TensorBoard files, CSV, JSON lines.",
        ),
        click.option("--norm", metavar="NAME", help="With --from: column of the gradient norm."),
        click.option("--loss", metavar="NAME", help="Name of the loss, if it is not a usual one."),
    )
    for option in reversed(options):
        command = option(command)
    return command


@contextmanager
def opened(
    db: Path, run: str | None, log: Path | None, norm: str | None, loss: str | None
) -> "Iterator[Store]":
    """The recording, or one made from the log."""
    from clipwise.monitor.logs import read_log, recorded
    from clipwise.monitor.store import Store

    if log is None:
        if norm is not None:
            raise ArgumentError(f"--norm={norm!r} names a column of a log: give the log with --from")
        with Store(db) as store:
            yield store
        return
    if run is not None:
        raise ArgumentError(f"a log holds one run: give --from {str(log)!r} or the run {run!r}, not both")
    with recorded(read_log(log, norm=norm, loss=loss)) as store:
        yield store
