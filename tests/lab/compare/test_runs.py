"""Which runs a comparison consists of, and in which order they are trained."""

from collections.abc import Mapping
from typing import Any

import pytest

from clipwise.clip import auto, clip_by_global_norm, clip_by_norm
from clipwise.errors import ConfigError
from clipwise.lab.compare.runs import Job, label_of, plan, run, single
from clipwise.lab.config.lab_config import LabConfig, parse_config
from clipwise.lab.record import RunRecord
from tests.lab.records import record


def config(clip: Any = None, seed: int = 0) -> LabConfig:
    return parse_config(
        {
            "model_type": "GRU",
            "task": "Language_Modeling",
            "seed": seed,
            "training_parameters": {"gradient_clipping": clip},
        }
    )


FIVE = {"method": "clip_by_global_norm", "threshold": 5.0}


def names(jobs: list[Job]) -> list[tuple[str, str]]:
    return [(job.role, job.label) for job in jobs]


def test_no_clipping_as_configured_as_given_and_auto() -> None:
    jobs = plan(config(FIVE), clips=["clip_by_norm(1.0)"])
    assert names(jobs) == [
        ("baseline", "no clipping"),
        ("configured", "clip_by_global_norm(5.0)"),
        ("given", "clip_by_norm(1.0)"),
        ("auto", "auto"),
    ]
    assert [job.clip for job in jobs] == [None, clip_by_global_norm(5.0), clip_by_norm(1.0), auto()]


def test_without_a_configured_clip() -> None:
    assert names(plan(config())) == [("baseline", "no clipping"), ("auto", "auto")]


@pytest.mark.parametrize(
    "same", ["clip_by_global_norm(5.0)", "clip_by_global_norm(5)", "clip_by_global_norm(5.0, 2)"]
)
def test_the_same_clip_runs_once_however_it_is_written(same: str) -> None:
    assert len(plan(config(FIVE), clips=[same, same])) == 3


def test_auto_runs_once_where_it_is_configured_or_given() -> None:
    assert names(plan(config("auto"))) == [("baseline", "no clipping"), ("configured", "auto")]
    assert names(plan(config(), clips=["auto"])) == [("baseline", "no clipping"), ("auto", "auto")]
    assert names(plan(config(), clips=["auto"], auto=False)) == [
        ("baseline", "no clipping"),
        ("auto", "auto"),
    ]


@pytest.mark.parametrize("nothing", ["none", "clip_by_global_norm(inf)", "clip_by_value(inf)"])
def test_a_clip_that_never_clips_is_the_baseline(nothing: str) -> None:
    assert names(plan(config(), clips=[nothing], auto=False)) == [("baseline", "no clipping")]
    assert names(plan(config(), clips=[nothing], auto=False, baseline=False)) == [("baseline", "no clipping")]


def test_all_clips_of_a_seed_come_before_the_next_seed() -> None:
    jobs = plan(config(FIVE, seed=7), seeds=2)
    assert [job.seed for job in jobs] == [7, 7, 7, 8, 8, 8]


def test_nothing_to_run() -> None:
    with pytest.raises(ConfigError, match="nothing to run: --no-baseline and --no-auto"):
        plan(config(), auto=False, baseline=False)


def test_a_bad_clip_is_named() -> None:
    with pytest.raises(ConfigError, match=r"--clip 'clip_by_nrom\(1\)': .*clip_by_norm"):
        plan(config(), clips=["clip_by_nrom(1)"])


def test_the_one_run_of_a_training() -> None:
    assert single(config()) == Job("no clipping", "baseline", None, 0)
    assert single(config(FIVE)) == Job("clip_by_global_norm(5.0)", "configured", clip_by_global_norm(5.0), 0)
    assert single(config(FIVE), "none") == Job("no clipping", "baseline", None, 0)
    assert single(config(FIVE), "auto") == Job("auto", "auto", auto(), 0)


def test_labels() -> None:
    assert label_of(clip_by_norm(1.0)) == "clip_by_norm(1.0)"


class Watch:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def begin(self, job: Job, index: int, count: int) -> Any:
        self.said.append(f"{index}/{count} {job.label}")

        def update(step: int, total: int, figures: Mapping[str, float]) -> None:
            self.said.append(f"{step}/{total}")

        return update

    def end(self, record: RunRecord) -> None:
        self.said.append("end")


def test_an_interrupted_run_is_the_last_one() -> None:
    trained = []

    def train(*_: Any, label: str, role: str, seed: int, progress: Any, **__: Any) -> RunRecord:
        trained.append(label)
        progress(1, 4, {})
        return record(label=label, role=role, seed=seed, interrupted=len(trained) == 2)

    watch = Watch()
    records = list(run(plan(config(FIVE), seeds=2), config(FIVE), train, watch))
    assert trained == ["no clipping", "clip_by_global_norm(5.0)"]
    assert [r.interrupted for r in records] == [False, True]
    assert watch.said == ["1/6 no clipping", "1/4", "end", "2/6 clip_by_global_norm(5.0)", "1/4", "end"]
