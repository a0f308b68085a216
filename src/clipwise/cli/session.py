"""One call of ``train`` or ``compare``, from the configuration to the saved result."""

import math
import shlex
import signal
import tempfile
import webbrowser
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from clipwise.checks import number_where
from clipwise.cli.display import preparing, say, show, watcher
from clipwise.config.files import read_mapping
from clipwise.lab.compare.runs import Watcher, plan, run, single
from clipwise.lab.config.lab_config import LabConfig, load_config
from clipwise.lab.record import RunRecord
from clipwise.lab.report.output import environment, files
from clipwise.lab.report.results import Results, check_folder, interrupted_folder, save, steps_csv
from clipwise.lab.tasks.load import load_task
from clipwise.lab.training.train import train

__all__ = ["compare_command", "train_command"]

RESULTS = Path("clipwise-results")
INTERRUPTED = 130

Trained = Callable[[Watcher], Iterator[RunRecord]]


def compare_command(
    config: Path,
    *,
    out: Path | None,
    clips: Sequence[str],
    seeds: int,
    no_auto: bool,
    no_baseline: bool,
    target: float | None,
    show: bool,
    **overrides: Any,
) -> int:
    """``clipwise compare``; returns the exit code."""
    if target is not None:
        number_where("--target", target, math.isfinite, "a finite number")
    given = read_mapping(config)
    loaded = load_config(config).override(**overrides)
    jobs = plan(loaded, clips=clips, seeds=seeds, auto=not no_auto, baseline=not no_baseline)
    folder = RESULTS / config.stem if out is None else out
    check_folder(folder)
    data = _prepare(loaded)
    kept = _words(overrides)
    words = [
        *(w for clip in clips for w in ("--clip", clip)),
        *_words({"seeds": seeds if seeds > 1 else None}),
    ]
    words += ["--no-auto"] * no_auto + ["--no-baseline"] * no_baseline + _words({"target": target}) + kept

    def finish(records: Sequence[RunRecord]) -> Results:
        return _results(
            "comparison",
            "compare",
            config,
            loaded,
            given,
            records,
            data=data,
            words=words,
            kept=kept,
            target=target,
        )

    return _session(
        lambda watch: run(jobs, loaded, train, watch),
        finish,
        folder,
        expected=len(jobs),
        seeds=seeds > 1,
        browse=show,
    )


def train_command(config: Path, *, clip: str | None, out: Path | None, overrides: Mapping[str, Any]) -> int:
    """``clipwise train``; returns the exit code."""
    given = read_mapping(config)
    loaded = load_config(config).override(**overrides)
    job = single(loaded, clip)
    folder = RESULTS / f"{config.stem}-train" if out is None else out
    check_folder(folder)
    data = _prepare(loaded)
    kept = _words(overrides)
    words = [*_words({"clip": clip}), *kept]

    def finish(records: Sequence[RunRecord]) -> Results:
        return _results(
            "training", "train", config, loaded, given, records, data=data, words=words, kept=kept
        )

    with tempfile.TemporaryDirectory(prefix="clipwise-") as name:
        weights = Path(name) / "model.pt"

        def trained(watch: Watcher) -> Iterator[RunRecord]:
            progress = watch.begin(job, 1, 1)
            record = train(
                loaded,
                job.clip,
                label=job.label,
                role=job.role,
                seed=job.seed,
                progress=progress,
                checkpoint=weights,
            )
            yield record
            watch.end(record)

        return _session(trained, finish, folder, expected=1, weights=weights)


def _prepare(config: LabConfig) -> str:
    """Fetch and read the data, say in a few words what it is, and return them."""
    with preparing():
        summary = load_task(config).summary
    say(f"data: {summary}")
    return summary


def _session(
    trained: Trained,
    finish: Callable[[Sequence[RunRecord]], Results],
    folder: Path,
    *,
    expected: int,
    seeds: bool = False,
    weights: Path | None = None,
    browse: bool = False,
) -> int:
    """Train, save, show. What was trained is saved whatever stops the training."""
    records: list[RunRecord] = []
    try:
        with watcher(seeds=seeds) as watch:
            for record in trained(watch):
                # one by one: what is there must stay where the next one raises
                records.append(record)  # noqa: PERF402
    except KeyboardInterrupt:
        pass  # said below, once what there is has been saved
    except BaseException:
        if usable := _any(records):
            place = _save(finish(usable), interrupted_folder(folder), weights)
            say(f"Stopped by an error: {_counted(usable, expected)} saved in {place}")
        raise
    usable = _any(records)
    complete = len(records) == expected and not any(record.interrupted for record in records)
    if not usable:
        say("Interrupted before the first step; nothing was written.")
        return INTERRUPTED
    results = finish(usable)
    place = _save(results, folder if complete else interrupted_folder(folder), weights)
    show(results, place)
    if not complete:
        say(f"Interrupted: {_counted(usable, expected)} saved in {place}")
        return INTERRUPTED
    if browse:
        webbrowser.open((place / f"{results.name}.html").absolute().as_uri())
    return 0


def _any(records: Sequence[RunRecord]) -> tuple[RunRecord, ...]:
    """The runs that took at least one step."""
    return tuple(record for record in records if record.steps["loss"])


def _counted(records: Sequence[RunRecord], expected: int) -> str:
    """``2 of 4 runs (the last one 120 steps long)``."""
    partial = (
        f" (the last one {len(records[-1].steps['loss'])} steps long)" if records[-1].interrupted else ""
    )
    return f"{len(records)} of {expected} {'run' if expected == 1 else 'runs'}{partial}"


def _save(results: Results, folder: Path, weights: Path | None) -> Path:
    with _uninterrupted():
        content = files(results)
        if results.name == "training":
            content["steps.csv"] = steps_csv(results.records[0])
        save(folder, content, extra=[weights] if weights is not None and weights.exists() else [])
    return folder


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Ctrl-C waits for the seconds that saving takes: pressed twice, it would lose what it wants to keep."""
    try:
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    except ValueError:  # not the main thread: there, Ctrl-C does not arrive
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _results(
    name: str,
    command: str,
    path: Path,
    config: LabConfig,
    given: Mapping[str, Any],
    records: Sequence[RunRecord],
    *,
    data: str,
    words: Sequence[str],
    kept: Sequence[str],
    target: float | None = None,
) -> Results:
    return Results(
        name=name,
        records=tuple(records),
        config_path=str(path),
        config=given,
        settings=config.to_dict(),
        command=shlex.join(["clipwise", command, str(path), *words]),
        options=tuple(kept),
        target=target,
        environment={"data": data} | environment(config),
    )


def _words(options: Mapping[str, Any]) -> list[str]:
    """Options as words of a command line, always in the same order; those not given are left out."""
    return [
        word
        for name, value in sorted(options.items())
        if value is not None
        for word in (f"--{name}", str(value))
    ]
