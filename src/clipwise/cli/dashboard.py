"""``clipwise dashboard``: the live page. ``clipwise report``: the same charts as one file."""

from contextlib import ExitStack
from pathlib import Path

import click

from clipwise.extras import needed

PACKAGES = ("starlette", "uvicorn", "matplotlib")
"""What the extra ``clipwise[dashboard]`` brings."""


@click.command()
@click.argument("database", metavar="[DB]", default="clipwise.db", type=click.Path(path_type=Path))
@click.option(
    "--host", default="127.0.0.1", show_default=True, metavar="ADDRESS", help="Address to listen on."
)
@click.option("--port", type=int, metavar="N", help="Port; 0: any free one. [default: 8765, or any free one]")
@click.option("--open", "show", is_flag=True, help="Open the page in the browser.")
@click.option("--new-token", is_flag=True, help="Generate a token; it is part of the printed address.")
@click.option(
    "--token-file",
    metavar="FILE",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="File with the token, which only you may be able to read.",
)
@click.option(
    "--token", metavar="T", envvar="CLIPWISE_TOKEN", show_envvar=True,
    help="The token. Visible to all users of this machine, unlike the variable.",
)  # fmt: skip
def dashboard(
    database: Path,
    host: str,
    port: int | None,
    show: bool,
    new_token: bool,
    token_file: Path | None,
    token: str | None,
) -> int:
    """Show the recording DB (clipwise.db) as a live page, until Ctrl-C.

    By default the page can only be opened on this machine. If --host makes it reachable from other machines,
    a token is required, which is part of the printed address. If the file does not exist yet, the page waits
    for it.

    Example: clipwise dashboard --open
    """
    from clipwise.dashboard.access import any_token, token_in, unseen
    from clipwise.errors import ArgumentError

    if new_token and token_file is not None:
        raise ArgumentError("--new-token and --token-file exclude each other: give one")
    if new_token:
        token = any_token()
    elif token_file is not None:
        token = token_in(token_file)
    with needed("this", "dashboard", PACKAGES):
        from clipwise.dashboard import Dashboard

        page = Dashboard(database, host=host, port=port, token=token or None)

    def started() -> None:
        click.echo(f"{database}: {page.url}  (Ctrl-C ends)")
        if show:
            import webbrowser

            webbrowser.open(stack.enter_context(unseen(page.url)) if page.token else page.url)

    with ExitStack() as stack:
        page.run(started)
    return 0


@click.command()
@click.argument("runs", metavar="[RUN]...", nargs=-1)
@click.option(
    "--db",
    "database",
    default="clipwise.db",
    show_default=True,
    metavar="FILE",
    help="The recording.",
    type=click.Path(path_type=Path),
)
@click.option(
    "-o", "--out", default="report.html", show_default=True, metavar="FILE", type=click.Path(path_type=Path),
    help="The file to write.",
)  # fmt: skip
@click.option("--png", metavar="FILE", type=click.Path(path_type=Path), help="Also save a picture.")
@click.option("--force", is_flag=True, help="Overwrite an existing file.")
def report(runs: tuple[str, ...], database: Path, out: Path, png: Path | None, force: bool) -> int:
    """Save the page of a RUN (its name or number; by default the newest) as one file.

    The file needs no server and no network. Of several runs the first one is shown, and the others can be
    overlaid.

    Example: clipwise report lstm -o lstm.html --png lstm.png
    """
    from clipwise.dashboard.opened import Unavailable
    from clipwise.dashboard.recording import Recording
    from clipwise.dashboard.report import collect, render
    from clipwise.errors import ArgumentError, StoreError
    from clipwise.files import check_new, save
    from clipwise.monitor.store import Store

    if png is not None and png.absolute() == out.absolute():
        raise ArgumentError(f"the page and the picture cannot both be {str(out)!r}")
    for path in (out, png):
        if path is not None:
            check_new(path, force)
    with Store(database) as store:
        numbers = list(dict.fromkeys(store.run(which).id for which in runs or [None]))
    recording = Recording(database)
    try:
        data = collect(recording, numbers)
    except Unavailable as error:
        raise StoreError(error.state.message) from error
    finally:
        recording.close()
    written = {out: render(data).encode()}
    if png is not None:
        with needed("this", "dashboard", PACKAGES):
            from clipwise.dashboard.picture import picture

            written[png] = picture(data)
    for path, content in written.items():
        save(path, content, force=force)
        click.echo(f"{path}: {len(content) / 1024:,.0f} KiB")
    return 0
