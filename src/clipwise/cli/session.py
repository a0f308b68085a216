"""One call of ``train`` or ``compare``, from the configuration to the saved result.

Arguments are checked before torch is imported, which takes seconds.
"""

import math
import shlex
import tempfile
import webbrowser
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from clipwise.checks import number_where
from clipwise.cli.display import Silent, preparing, say, show, watcher
from clipwise.config.files import read_mapping
from clipwise.errors import ArgumentError, StoreError
from clipwise.lab.compare.runs import Job, Watcher, plan, run, single, taken_over
from clipwise.lab.config.lab_config import LabConfig, load_config
from clipwise.lab.record import RunRecord
from clipwise.lab.recording import RecordingTarget, finished_runs
from clipwise.lab.report.results import Results, check_folder, interrupted_folder
from clipwise.lab.training.launched import launched, on_all_devices
from clipwise.monitor.store import recordable

__all__ = ["compare_command", "train_command"]

RESULTS = Path("clipwise-results")
RECORDING = Path("clipwise.db")
INTERRUPTED = 130

OF_A_RUN = ("seed", "training_parameters.gradient_clipping")
"""Settings that runs of one configuration may differ in."""


@dataclass(frozen=True)
class Call:
    """The arguments of a call.

    Attributes:
        command: ``"train"`` or ``"compare"``.
        path, given, config: the configuration: its file, the content, and the result with options and
            defaults.
        jobs: the runs.
        folder: folder for the results.
        db: the recording.
        words: the options as they were written.
        kept: those of them that a suggested next command should keep.
        target: a value of the held-out metric; the time until it is first reached is recorded.
    """

    command: str
    path: Path
    given: Mapping[str, Any]
    config: LabConfig
    jobs: Sequence[Job]
    folder: Path
    db: Path
    words: Sequence[str]
    kept: Sequence[str]
    target: float | None = None

    @property
    def line(self) -> list[str]:
        return ["clipwise", self.command, str(self.path), *self.words]

    def results(
        self, data: str, environment: Mapping[str, str], records: Sequence[RunRecord], going_on: str = ""
    ) -> Results:
        return Results(
            name="comparison" if self.command == "compare" else "training",
            records=tuple(records),
            config_path=str(self.path),
            config=self.given,
            settings=self.config.to_dict(),
            command=shlex.join(self.line),
            options=tuple(self.kept),
            target=self.target,
            environment={"data": data, **environment},
            going_on=going_on,
        )


def compare_command(
    config: Path,
    *,
    out: Path | None,
    db: Path,
    clips: Sequence[str],
    seeds: int,
    no_auto: bool,
    no_baseline: bool,
    target: float | None,
    resume: bool,
    show: bool,
    **overrides: Any,
) -> int:
    """``clipwise compare``; returns the exit code."""
    if target is not None:
        number_where("--target", target, math.isfinite, "a finite number")
    given = read_mapping(config)
    loaded = _loaded(config, overrides)
    jobs = plan(loaded, clips=clips, seeds=seeds, auto=not no_auto, baseline=not no_baseline)
    kept = _words(overrides)
    words = [
        *(w for clip in clips for w in ("--clip", clip)),
        *_words({"seeds": seeds if seeds > 1 else None}),
    ]
    words += ["--no-auto"] * no_auto + ["--no-baseline"] * no_baseline + _words({"target": target}) + kept
    folder = RESULTS / config.stem if out is None else out
    call = Call("compare", config, given, loaded, jobs, folder, db, words, kept, target)
    place = [*_words({"out": out, "db": None if db == RECORDING else db})]
    going_on = shlex.join([*call.line, *place, "--resume"])
    return _session(call, resume=resume, going_on=going_on, browse=show)


def train_command(
    config: Path, *, clip: str | None, out: Path | None, db: Path, force: bool, overrides: dict[str, Any]
) -> int:
    """``clipwise train``; returns the exit code."""
    given = read_mapping(config)
    loaded = _loaded(config, overrides)
    folder = RESULTS / f"{config.stem}-train" if out is None else out
    if not force and (folder / "model.pt").exists():
        raise ArgumentError(
            f"{str(folder / 'model.pt')!r} already exists: name another folder with --out, or replace these"
            " weights with --force"
        )
    kept = _words(overrides)
    words = [*_words({"clip": clip}), *kept]
    call = Call("train", config, given, loaded, [single(loaded, clip)], folder, db, words, kept)
    with tempfile.TemporaryDirectory(prefix="clipwise-") as name:
        return _session(call, weights=Path(name) / "model.pt")


def _loaded(path: Path, overrides: dict[str, Any]) -> LabConfig:
    """The configuration with the options; the number of processes of ``torchrun`` counts as one of them."""
    loaded = on_all_devices(load_config(path).override(**overrides))
    if launched() is not None:
        overrides["devices"] = loaded.devices
    return loaded


def _session(
    call: Call,
    *,
    weights: Path | None = None,
    resume: bool = False,
    going_on: str = "",
    browse: bool = False,
) -> int:
    """Train, save, show. What was trained is saved whatever stops the training."""
    among = launched()
    if among is not None and among.rank:
        return _follow(call, weights, resume=resume)
    check_folder(call.folder)
    try:
        recordable(call.db)
    except StoreError as error:
        raise StoreError(f"--db: {error}") from error
    # Not above: these load torch, and all that the training and its picture need.
    from clipwise.cli.saving import save_results
    from clipwise.lab.report.output import environment
    from clipwise.lab.tasks.load import load_task
    from clipwise.lab.training.train import train

    with preparing():
        data = load_task(call.config).summary
    say(f"data: {data}")
    where = environment(call.config)
    target = RecordingTarget(call.db, call.path.stem, _facts(call.config, data, where))
    earlier = taken_over(call.jobs, finished_runs(target)) if resume else []
    if resume:
        earlier = _agreed(call.config, earlier)
        say(f"{sum(each is not None for each in earlier)} of {len(call.jobs)} runs are in {call.db} already")
    page = shlex.join(["clipwise", "dashboard", *([] if call.db == RECORDING else [str(call.db)])])
    say(f"recording: {call.db} ({page} shows it live)")

    def trained(watch: Watcher) -> Iterator[RunRecord]:
        one = partial(train, checkpoint=weights)
        return run(call.jobs, call.config, one, watch, recording=target, earlier=earlier)

    again = going_on or shlex.join(call.line)
    records: list[RunRecord] = []
    expected = len(call.jobs)
    try:
        with watcher(seeds=len({job.seed for job in call.jobs}) > 1) as watch:
            for record in trained(watch):
                # one by one: what is there must stay where the next one raises
                records.append(record)  # noqa: PERF402
    except KeyboardInterrupt:
        pass  # said below, once what there is has been saved
    except BaseException:
        if usable := _any(records):
            place = interrupted_folder(call.folder)
            save_results(call.results(data, where, usable, again), place, weights)
            say(f"Stopped by an error: {_counted(usable, expected)} saved in {place}")
        raise
    usable = _any(records)
    complete = len(records) == expected and not any(record.interrupted for record in records)
    if not usable:
        say("Interrupted before the first step; nothing was written.")
        return INTERRUPTED
    results = call.results(data, where, usable, "" if complete else again)
    place = call.folder if complete else interrupted_folder(call.folder)
    save_results(results, place, weights)
    show(results, place, call.db)
    if not complete:
        say(f"Interrupted: {_counted(usable, expected)} saved in {place}")
        if going_on:
            say(f"To continue: {going_on}")
        return INTERRUPTED
    if browse:
        webbrowser.open((place / f"{results.name}.html").absolute().as_uri())
    return 0


def _follow(call: Call, weights: Path | None, *, resume: bool) -> int:
    """The part of each process of ``torchrun`` but the first: it trains with it, says and writes nothing."""
    from clipwise.lab.training.train import train

    earlier = _agreed(call.config, []) if resume else []
    one = partial(train, checkpoint=weights)
    records = list(run(call.jobs, call.config, one, Silent(), earlier=earlier))
    return INTERRUPTED if any(record.interrupted for record in records) else 0


def _agreed(config: LabConfig, earlier: list[RunRecord | None]) -> list[RunRecord | None]:
    """The runs that the first process found to be finished: the same ones are left out in all."""
    if launched() is None:
        return earlier
    from clipwise.lab.training.processes import as_the_first

    found: list[RunRecord | None] = as_the_first(config, earlier)
    return found


def _facts(config: LabConfig, data: str, environment: Mapping[str, str]) -> dict[str, Any]:
    """What the figures of a run depend on, beyond its clip and its seed."""
    settings = config.to_dict()
    for path in OF_A_RUN:
        section, _, key = path.rpartition(".")
        del (settings[section] if section else settings)[key]
    file = config.data_path
    changed = {} if file is None else {"data_file": [str(file.absolute()), file.stat().st_mtime]}
    return {"settings": settings, "data": data, **changed, "environment": dict(environment)}


def _any(records: Sequence[RunRecord]) -> tuple[RunRecord, ...]:
    """The runs that took at least one step."""
    return tuple(record for record in records if record.steps["loss"])


def _counted(records: Sequence[RunRecord], expected: int) -> str:
    """``2 of 4 runs (the last one 120 steps long)``."""
    partial = (
        f" (the last one {len(records[-1].steps['loss'])} steps long)" if records[-1].interrupted else ""
    )
    return f"{len(records)} of {expected} {'run' if expected == 1 else 'runs'}{partial}"


def _words(options: Mapping[str, Any]) -> list[str]:
    """Options as words of a command line, always in the same order; those not given are left out."""
    return [
        word
        for name, value in sorted(options.items())
        if value is not None
        for word in (f"--{name}", str(value))
    ]
