"""``clipwise suggest``: recommend a threshold from a recorded run, with reasons."""

import json
from pathlib import Path

import click

from clipwise.cli.source import from_log, opened, recording


@click.command()
@click.argument("run", required=False)
@recording()
@click.option(
    "--kind", metavar="KIND", help="Kind of model: transformer, recurrent, gan, ppo, dqn or vision."
)
@click.option("--source", metavar="NAME", help="Only this clipper, if there are several.")
@from_log
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def suggest(
    run: str | None,
    db: Path,
    log: Path | None,
    kind: str | None,
    source: str | None,
    norm: str | None,
    loss: str | None,
    as_json: bool,
) -> int:
    """Recommend a threshold from the gradient norms of RUN (its name or number; by default the newest).

    Prints the recommendation with its reasons, how many steps other thresholds would have clipped, and the
    lines to paste. If a run has several clippers, there is a recommendation for each. With --from the norms
    come from the log of any trainer.

    Example: clipwise suggest lstm --kind recurrent

    Example: clipwise suggest --from outputs/trainer_state.json
    """
    from clipwise.monitor.suggest import suggest_run

    with opened(db, run, log, norm, loss) as store:
        found = store.run(run)
        # Each of several gets an answer: what holds for one says nothing of the others.
        sources: list[str | None] = [source]
        if source is None:
            sources = [*store.clippers(found.id, weights=False)] or sources
        recorded = None if log is not None else loss
        answers = {one: suggest_run(store, found, kind=kind, source=one, loss=recorded) for one in sources}
    if as_json:
        about = {"id": found.id, "name": found.name, "status": found.status, "steps": found.steps}
        said = {one or "": answer.to_dict() for one, answer in answers.items()}
        own = {"sources": said} if len(said) > 1 else next(iter(said.values()))
        click.echo(json.dumps({"run": about} | own, indent=2, allow_nan=False))
        return 0
    from clipwise.cli.suggestion import show, show_each

    if len(answers) > 1:
        show_each({one or "": answer for one, answer in answers.items()}, found)
    else:
        show(next(iter(answers.values())), found, kind)
    return 0
