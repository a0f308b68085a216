"""``clipwise check``: whether a run raised alerts, as an exit code."""

import json
from pathlib import Path

import click

from clipwise.cli.source import from_log, opened, recording
from clipwise.wording import printable

LEVELS = ("info", "warning", "critical")
CALM, ALERTED = 0, 1


@click.command()
@click.argument("run", required=False)
@recording()
@from_log
@click.option(
    "--level",
    type=click.Choice(LEVELS),
    default="warning",
    show_default=True,
    help="The lowest alert level that counts.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def check(
    run: str | None,
    db: Path,
    log: Path | None,
    norm: str | None,
    loss: str | None,
    level: str,
    as_json: bool,
) -> int:
    """Check a training for alerts: exit code 0 without alerts, 1 with alerts, for continuous integration.

    For a recorded RUN (its name or number; by default the newest) it shows the alerts raised during the
    training. With --from it applies clipwise's rules to the log of another tool.

    Example: clipwise check --from outputs/trainer_state.json --json
    """
    from clipwise.monitor.rules import default_rules, replay

    with opened(db, run, log, norm, loss) as store:
        found = store.run(run)
        alerts = store.alerts(found.id) if log is None else replay(default_rules(), store, found.id)
    shown = [one for one in alerts if LEVELS.index(one.level) >= LEVELS.index(level)]
    code = ALERTED if shown else CALM
    if as_json:
        about = {"id": found.id, "name": found.name, "status": found.status, "steps": found.steps}
        fields = ("rule", "level", "step", "source", "seen", "why", "advice")
        plain = [{name: getattr(one, name) for name in fields} for one in shown]
        click.echo(json.dumps({"run": about, "calm": not shown, "alerts": plain}, indent=2))
        return code
    steps = f"{found.steps:,} steps"
    if not shown:
        click.echo(f"{printable(found.name)}: no alerts in {steps}")
        return code
    click.echo(f"{printable(found.name)}: {len(shown)} alert{'s' * (len(shown) > 1)} in {steps}")
    for one in shown:
        whose = f" of {printable(found.title(one.source))}" if one.source else ""
        click.echo(f"step {one.step:,}{whose}: {printable(str(one))}")
    return code
