"""``clipwise tune``: search for the best clip."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from clipwise.cli.source import recording
from clipwise.errors import ArgumentError

if TYPE_CHECKING:
    from clipwise.tune.study import Search, Trial

CONFIGS = (".json", ".yaml", ".yml")
RESULTS = Path("clipwise-results")
LOSS = "loss"
COUNT = click.IntRange(min=1)


@click.command()
@click.argument("target", nargs=-1, type=click.UNPROCESSED)
@click.option("--trials", type=COUNT, default=20, show_default=True, metavar="N", help="Number of trials.")
@click.option("--methods", metavar="A,B", help="Clips to try; their ranges are in docs/tune.md.")
@click.option(
    "--rate", type=(float, float), metavar="LOW HIGH", help="Also search the learning rate in this range."
)
@click.option(
    "--metric",
    metavar="NAME",
    help="For a script: a recorded series (loss), or a regular expression for its output.",
)
@click.option("--maximize", is_flag=True, help="For a script: a higher metric is better.")
@click.option("--seeds", type=COUNT, default=1, show_default=True, metavar="N", help="Seeds per trial.")
@click.option("--steps", type=COUNT, metavar="N", help="For a configuration: steps of a run.")
@click.option(
    "--storage", metavar="URL", help="Database: sqlite:///..., postgresql://...  [default: in --out]"
)
@click.option("--study", metavar="NAME", help="Name of the search.  [default: name of the target]")
@click.option("--jobs", type=COUNT, default=1, show_default=True, metavar="N", help="Number of processes.")
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="Folder for the results.")
@recording("The recording of all trials.")
def tune(
    target: tuple[str, ...],
    trials: int,
    methods: str | None,
    rate: tuple[float, float] | None,
    metric: str | None,
    maximize: bool,
    seeds: int,
    steps: int | None,
    storage: str | None,
    study: str | None,
    jobs: int,
    out: Path | None,
    db: Path,
) -> int:
    """Search for the best clip for TARGET: a configuration of the lab, or a training script with arguments.

    Optuna chooses the method, the threshold and, with --rate, the learning rate; no clipping, auto() and
    clip_by_global_norm(1.0) are tried first. After an interruption the same command continues. With a shared
    storage a search may run in several processes (--jobs) and on several machines. A script runs under
    clipwise observe; {rate} in its arguments stands for the learning rate.

    Example: clipwise tune examples/chatbot-gru.json --trials 30 --rate 1e-4 1e-2

    Example: clipwise tune --metric 'val_loss: ([0-9.]+)' -- python train.py --lr 0.1
    """
    if not target:
        raise click.UsageError("give a configuration (.json, .yaml), or a training script after --")
    is_config = len(target) == 1 and Path(target[0]).suffix.lower() in CONFIGS
    stem = Path(target[0]).stem if is_config else _name(target)
    folder = RESULTS / f"{stem}-tune" if out is None else out
    from clipwise.tune.space import USUAL, Space

    space = Space(tuple(methods.split(",")) if methods else USUAL, rate)
    if is_config:
        _refuse({"--metric": metric, "--maximize": maximize})
        objective, named, lower, about = _of_config(Path(target[0]), stem, steps, seeds, db)
    else:
        _refuse({"--steps": steps, "--seeds": seeds if seeds > 1 else None})
        objective, named, lower, about = _of_script(target, metric, maximize, rate, db, folder, study or stem)
    about |= {"methods": list(space.methods), "rates": None if rate is None else list(rate)}
    from clipwise.lab.suite.postgres import without_password
    from clipwise.tune.study import Search, helpers

    if storage is None:
        folder.mkdir(parents=True, exist_ok=True)
        storage = f"sqlite:///{folder / 'tune.db'}"
    search = Search(storage, study or stem, space, lower_is_better=lower, about=about)
    options: dict[str, Any] = {"--trials": trials, "--methods": methods, "--metric": metric, "--steps": steps}
    options |= {"--seeds": seeds, "--storage": storage, "--study": study or stem, "--out": folder, "--db": db}
    words = [w for name, value in options.items() if value is not None for w in (name, str(value))]
    words += ["--rate", *map(str, rate)] if rate is not None else []
    words += [*(["--maximize"] if maximize else []), "--", *target]
    try:
        with helpers(words, jobs):
            search.run(objective, trials, _teller(search, trials, named))
    except KeyboardInterrupt:
        command = without_password(shlex.join(words))
        click.echo(f"Interrupted. To continue: clipwise tune {command}", err=True)
        return 130
    return _show(search, folder, stem, named, lower)


def _name(target: tuple[str, ...]) -> str:
    """A script's own name: of the first word that looks like a file, or else the first."""
    return next((Path(word).stem for word in target if word.endswith(".py")), Path(target[0]).name)


def _refuse(options: dict[str, Any]) -> None:
    for name, value in options.items():
        if value:
            raise ArgumentError(f"{name} cannot be used with this target")


def _of_config(path: Path, name: str, steps: int | None, seeds: int, db: Path) -> Any:
    from clipwise.lab.config.lab_config import load_config
    from clipwise.monitor.store import recordable

    config = load_config(path).override(steps=steps)
    recordable(db)
    from clipwise.lab.tasks.load import load_task
    from clipwise.tune.of_config import ConfigObjective, target_of

    task = load_task(config)
    lower = task.lower_is_better
    objective = ConfigObjective(config, target_of(db, name), seeds=seeds, lower_is_better=lower)
    about = {"target": str(path), "metric": task.metric, "seeds": seeds, "steps": steps}
    return objective, task.metric, lower, about


def _of_script(
    target: tuple[str, ...],
    metric: str | None,
    maximize: bool,
    rate: tuple[float, float] | None,
    db: Path,
    folder: Path,
    search: str,
) -> Any:
    from clipwise.tune.of_script import RATE, ScriptObjective

    metric = metric or LOSS
    if (rate is not None) != any(RATE in word for word in target):
        raise ArgumentError(
            f"--rate and {RATE} in the arguments of the script go together, such as: --rate 1e-4 1e-2 --"
            f" python train.py --lr {RATE}"
        )
    objective = ScriptObjective(target, metric, db, folder, search=search, lower_is_better=not maximize)
    return objective, objective.name, not maximize, {"target": shlex.join(target), "metric": metric}


def _teller(search: "Search", trials: int, metric: str) -> Any:
    """Says each trial as it ends."""
    from clipwise.wording import number

    def told(trial: "Trial") -> None:
        best = search.best()
        rate = "" if trial.chosen.rate is None else f", rate {trial.chosen.rate:g}"
        said = trial.state if trial.value is None else f"{metric} {number(trial.value)}"
        so_far = "" if best is None else f" (best {number(best.value)}, {best.chosen.clip})"
        click.echo(f"{search.count()} of {trials}: {trial.chosen.clip}{rate}: {said}{so_far}", err=True)

    return told


def _show(search: "Search", folder: Path, name: str, metric: str, lower: bool) -> int:
    import json

    from clipwise.tune.result import configuration, picture, sentences, write

    best, trials = search.best(), search.trials()
    if best is None:
        click.echo("No trial was completed: give more with --trials")
        return 1
    found = configuration(best)
    for sentence in sentences(trials, best, metric, lower):
        click.echo(sentence)
    click.echo("")
    click.echo(json.dumps(found, indent=2))
    drawn = picture(trials, f"{name}: {metric} over the threshold, {len(trials)} trials", metric, lower)
    places = write(folder, drawn, found)
    click.echo("")
    click.echo("\n".join(str(place) for place in places))
    return 0
