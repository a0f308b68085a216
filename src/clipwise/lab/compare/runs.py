"""The runs of a comparison, and their training one after the other."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from clipwise import clip as presets
from clipwise.clip import AnyClip, never_clips
from clipwise.config import parse, to_string
from clipwise.config.spelling import spelled
from clipwise.errors import ConfigError
from clipwise.lab.config.lab_config import LabConfig
from clipwise.lab.record import Progress, RunRecord
from clipwise.lab.recording import RecordingTarget

__all__ = ["Job", "Train", "Watcher", "label_of", "plan", "run", "single", "taken_over"]


class Train(Protocol):
    """A function that trains one run; `clipwise.lab.training.train.train`."""

    def __call__(
        self,
        config: LabConfig,
        clip: AnyClip | None,
        *,
        label: str,
        role: str,
        seed: int,
        progress: Progress | None = None,
        checkpoint: Path | None = None,
        recording: RecordingTarget | None = None,
    ) -> RunRecord: ...


class Watcher(Protocol):
    """Is told about the progress of the runs; `clipwise.cli.display` has two."""

    def begin(self, job: "Job", index: int, count: int) -> Progress: ...

    def end(self, record: RunRecord) -> None: ...


@dataclass(frozen=True)
class Job:
    """One run to train."""

    label: str
    role: str
    clip: AnyClip | None
    seed: int


def plan(
    config: LabConfig,
    *,
    clips: Sequence[str] = (),
    seeds: int = 1,
    auto: bool = True,
    baseline: bool = True,
) -> list[Job]:
    """The runs of a comparison: no clipping, as configured, each given clip, and auto; each for every seed.

    A clip that occurs twice is run once. All clips of one seed come before the next seed, so that an
    interrupted comparison is still a comparison.

    Args:
        config: the configuration; it contains the configured clip and the first seed.
        clips: further clips in their string form.
        seeds: number of seeds.
        auto: whether to include `auto`.
        baseline: whether to include no clipping.

    Raises:
        ConfigError: a clip cannot be understood, or nothing is left to run.
    """
    asked: list[tuple[str, AnyClip | None]] = [("baseline", None)] if baseline else []
    if config.clip is not None:
        asked.append(("configured", config.clip))
    asked += [("given", _given(text)) for text in clips]
    if auto:
        asked.append(("auto", presets.auto()))
    chosen: list[tuple[str, str, AnyClip | None]] = []
    for role, clip in asked:
        clip = None if clip is None or never_clips(clip) else clip
        if all(clip != other for *_, other in chosen):
            chosen.append((label_of(clip), _role(role, clip), clip))
    if not chosen:
        raise ConfigError("nothing to run: --no-baseline and --no-auto leave no clip; give one with --clip")
    first = config.seed
    return [Job(*each, seed) for seed in range(first, first + seeds) for each in chosen]


def single(config: LabConfig, clip: str | None = None) -> Job:
    """The run of a training: with the given clip, otherwise with the configured one."""
    chosen = config.clip if clip is None else _given(clip)
    if chosen is None or never_clips(chosen):
        return Job(label_of(None), "baseline", None, config.seed)
    return Job(
        label_of(chosen), "configured" if clip is None else _role("given", chosen), chosen, config.seed
    )


def run(
    jobs: Sequence[Job],
    config: LabConfig,
    train: Train,
    watcher: Watcher,
    *,
    recording: RecordingTarget | None = None,
    earlier: Sequence[RunRecord | None] = (),
) -> Iterator[RunRecord]:
    """Train one job after the other and yield each record when it is complete.

    After an interrupted run no further one is started; its record, with what was trained so far, comes last.

    Args:
        jobs: the runs.
        config: their configuration.
        train: trains one run.
        watcher: is told about the progress.
        recording: where the runs are recorded.
        earlier: an existing record for each job, or None, as `taken_over` returns them.
    """
    for index, job in enumerate(jobs, start=1):
        progress = watcher.begin(job, index, len(jobs))
        record = earlier[index - 1] if earlier else None
        if record is None:
            record = train(
                config,
                job.clip,
                label=job.label,
                role=job.role,
                seed=job.seed,
                progress=progress,
                recording=recording,
            )
        yield record  # first of all: what was trained must be in safe hands before anything else can fail
        watcher.end(record)
        if record.interrupted:
            return


def taken_over(jobs: Sequence[Job], records: Iterable[RunRecord]) -> list[RunRecord | None]:
    """For each job the first record with the same clip and seed, under the job's label, or None."""
    found: dict[tuple[str | None, int], RunRecord] = {}
    for record in records:
        found.setdefault((record.clip, record.seed), record)
    there = [found.get((None if job.clip is None else spelled(job.clip), job.seed)) for job in jobs]
    return [
        None if record is None else replace(record, label=job.label, role=job.role)
        for job, record in zip(jobs, there, strict=True)
    ]


def label_of(clip: AnyClip | None) -> str:
    """The name of a clip for people: ``"no clipping"``, ``"auto"``, ``"clip_by_global_norm(5.0)"``.

    >>> label_of(presets.auto()), label_of(None)
    ('auto', 'no clipping')
    """
    return "no clipping" if clip is None else to_string(clip).removesuffix("()")


def _given(text: str) -> AnyClip | None:
    try:
        return parse(text)
    except ConfigError as error:
        raise ConfigError(f"--clip {text!r}: {error}") from error


def _role(role: str, clip: AnyClip | None) -> str:
    """A clip that is none is the baseline, and `auto` is auto, wherever it was written."""
    if clip is None:
        return "baseline"
    return "auto" if clip == presets.auto() and role != "configured" else role
