"""``clipwise suggest``: which threshold a recorded run asks for, and why."""

import json
from pathlib import Path

import click


@click.command()
@click.argument("run", required=False)
@click.option(
    "--db",
    type=click.Path(path_type=Path),
    default=Path("clipwise.db"),
    show_default=True,
    metavar="FILE",
    help="The recording.",
)
@click.option("--kind", metavar="KIND", help="transformer, recurrent, gan, ppo, dqn or vision.")
@click.option("--source", metavar="NAME", help="Whose norms, where several clippers were recorded.")
@click.option("--loss", metavar="NAME", help="The recorded loss, if it is not called loss.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def suggest(
    run: str | None, db: Path, kind: str | None, source: str | None, loss: str | None, as_json: bool
) -> int:
    """Recommend a threshold from the gradient norms of RUN (its name or number; the newest when left out).

    Prints the recommendation with its reasons, what other thresholds would have clipped, and the lines to
    paste.

    Example: clipwise suggest lstm --kind recurrent
    """
    from clipwise.monitor.store import Store
    from clipwise.monitor.suggest import suggest_run

    with Store(db) as store:
        found = store.run(run)
        suggestion = suggest_run(store, found, kind=kind, source=source, loss=loss)
    if as_json:
        about = {"id": found.id, "name": found.name, "status": found.status, "steps": found.steps}
        click.echo(json.dumps({"run": about} | suggestion.to_dict(), indent=2, allow_nan=False))
    else:
        from clipwise.cli.suggestion import show

        show(suggestion, found, kind)
    return 0
