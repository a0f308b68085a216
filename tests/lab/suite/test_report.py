"""What the report says, against numbers computed again from the cells."""

import math
import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from clipwise.dashboard.drawing import LIGHT
from clipwise.lab.compare.figures import measure
from clipwise.lab.suite.budgets import BudgetName
from clipwise.lab.suite.catalog import TASKS
from clipwise.lab.suite.cells import Cell
from clipwise.lab.suite.page import Report
from clipwise.lab.suite.picture import draw, shown
from clipwise.lab.suite.published import comparisons
from clipwise.lab.suite.standings import Board, boards, tally
from clipwise.lab.suite.store import Finished
from clipwise.lab.suite.table import board_sheet, markdown
from clipwise.lab.suite.task import Result
from clipwise.wording import percent
from tests.lab.records import record

BITS = {
    "none": (2.6, math.nan, math.nan),
    "norm-0.5": (2.0, 2.1, 2.4),
    "norm-1": (2.2, 2.05, 2.0),
    "auto": (2.12, 2.09, 2.05),
    "tuned-rate": (1.9, 2.0, 2.05),
}
"""Final values of three seeds; NaN has diverged."""

ERRORS = {
    "none": ((0.5, 0.4), (0.5, 0.5), (0.5, 0.45)),
    "norm-1": ((0.4, 0.005), (0.3, 0.005), (0.2, 0.1)),
    "norm-5": ((0.005, 0.005), (0.2, 0.005), (0.2, 0.008)),
    "auto": ((0.2, 0.004), (0.2, 0.004), (0.1, 0.009)),
}
"""Values of two evaluations, after 2 and after 4 steps; solved below .01."""


def cell(
    task: str, method: str, seed: int, held_out: Sequence[float], budget: BudgetName = "small"
) -> Finished:
    one = TASKS[task].methods[method]
    lost = math.isnan(held_out[-1])
    run = record(
        label=one.label,
        clip=one.clip,
        lower_is_better=TASKS[task].lower_is_better,
        role="baseline" if method == "none" else "given",
        seed=seed,
        loss=(4.0, 3.0, math.nan, math.nan) if lost else (4.0, 3.0, 2.0, 1.0),
        norm=(1.0, 2.0, 3.0, 9.0),
        threshold=2.5 if one.clip else math.inf,
        held_out=held_out,
        metric=TASKS[task].metric,
    )
    figures = measure(run, target=TASKS[task].goal)
    curve = tuple((e.step, e.metrics[TASKS[task].metric]) for e in run.evaluations)
    result = Result(figures, () if lost else curve, one.variants[0], (figures.final,), 2.0)
    key = Cell(TASKS[task], one, seed, budget).key
    return Finished(key, result, "", {"torch": "2.0", "processor": "one"})


@pytest.fixture(scope="module")
def found() -> list[Board]:
    made = [
        cell("pm25", name, seed, [5.0, value])
        for name, values in BITS.items()
        for seed, value in enumerate(values)
    ]
    made += [
        cell("temporal-order-50", name, seed, values)
        for name, seeds in ERRORS.items()
        for seed, values in enumerate(seeds)
    ]
    return boards(TASKS.values(), "small", {one.key: one for one in made})


def test_a_task_is_compared_by_medians(found: list[Board]) -> None:
    order, dust = found
    assert (order.task.name, dust.task.name) == ("temporal-order-50", "pm25")
    medians = {name: np.median(values) for name, values in BITS.items() if name != "none"}
    fixed = dust.best("fixed")
    assert fixed is not None
    assert fixed.method.name == min(("norm-0.5", "norm-1"), key=medians.__getitem__) == "norm-1"
    best = dust.best()
    assert best is not None
    assert best.method.name == "tuned-rate"
    falls = {row.method.name: dust.shortfall(row, fixed) for row in dust.rows}
    assert falls.pop("none") == math.inf
    for name, fall in falls.items():
        assert fall == pytest.approx(medians[name] / medians["norm-1"] - 1)


def test_where_there_is_a_goal_seeds_decide_and_then_steps(found: list[Board]) -> None:
    order = found[0]
    solved = {row.method.name: row.solved for row in order.rows}
    assert solved == {"none": 0, "norm-1": 2, "norm-5": 3, "auto": 3}
    fixed = order.best("fixed")
    assert fixed is not None
    assert fixed.method.name == "norm-5"
    falls = {row.method.name: order.shortfall(row, fixed) for row in order.rows}
    assert falls == {"none": math.inf, "norm-1": math.inf, "norm-5": 0.0, "auto": 0.0}
    lines = {one.method.name: one for one in tally(found)}
    auto = lines["auto"]
    assert (auto.tasks, auto.close, auto.better) == (2, 2, 0)  # 1.95 % behind on one
    assert lines["none"].worst[0] == math.inf
    assert lines["none"].diverged == 1
    assert lines["tuned-rate"].better == 1


def test_one_mistake_beside_none_is_not_a_failure() -> None:
    made = [cell("invoices", "norm-1", 0, [0.9, 1.0]), cell("invoices", "auto", 0, [0.9, 0.999])]
    (board,) = boards(TASKS.values(), "small", {one.key: one for one in made})
    text = markdown(board_sheet(board))
    assert "best fixed" in text
    assert "0.1 % worse" in text


def test_the_table_holds_these_numbers(found: list[Board]) -> None:
    text = markdown(board_sheet(found[1]))
    rows = {
        cells[1]: cells for line in text.splitlines()[2:] if (cells := [c.strip() for c in line.split("|")])
    }
    assert rows["no clipping"][2] == "diverged (2 of 3 seeds)"
    assert rows["global norm 1"][2:4] == ["2.05 (2 – 2.2)", "best fixed"]
    assert rows["global norm 0.5"][2:4] == ["2.1 (2 – 2.4)", "2.4 % worse"]
    assert rows["auto"][2:4] == ["2.09 (2.05 – 2.12)", "2 % worse"]
    assert rows["no clipping, tuned rate"][2].startswith("**2 at 0.01 x rate**")
    assert rows["auto"][4:6] == ["50 %", "9"]  # two of four norms are above 2.5
    text = markdown(board_sheet(found[0]))
    assert "| never |" in text
    assert "| 2 of 3 seeds |" in text
    assert "| step 4 (2 – 4) |" in text


def test_the_page_and_the_markdown_say_the_same(found: list[Board]) -> None:
    report = Report(
        "small",
        found,
        [{"torch": "2.0", "processor": "one"}],
        27,
        310,
        ["traffic", "invoices"],
        "clipwise lab all",
    )
    page, text = report.html(), report.markdown()
    assert "2.09<small>2.05 – 2.12</small>" in page
    assert "2.09 (2.05 – 2.12)" in text
    for said in (report.title, "torch 2.0, processor one", "clipwise lab all", "27 of 310 runs done"):
        assert said in text
        assert said in page
    for said in ("no finished run of: traffic, invoices", "So far 15 of 20 runs.", "So far 12 of 20 runs."):
        assert said in text
        assert said in page
    assert page.count("<picture>") == 2
    assert not re.search(r"""(?:src|href)=["'](?!data:)""", page)  # it loads nothing


def test_the_picture_shows_what_is_best_of_each_kind(found: list[Board]) -> None:
    assert [row.method.name for row in shown(found[1])] == ["norm-1", "auto", "tuned-rate"]
    assert draw(found[0], LIGHT).startswith(b"\x89PNG")


def test_published_numbers_stand_beside_ours(found: list[Board]) -> None:
    (order,) = comparisons(found)
    assert "Pascanu" in order.source
    assert order.ours == "none: 0 of 3 solved, 45 % errors; threshold 1: 2 of 3 solved, at update 4"
    assert order.sentence.startswith("As published")


FULL = {
    "temporal-order-50": {"none": (0.5, 0.4), "norm-1": (0.4, 0.005)},
    "temporal-order-100": {"none": (0.5, 0.4), "norm-1": (0.4, 0.3)},
    "chorales": {"none": (60.0, 48.0), "norm-2": (9.0, 6.9), "norm-5": (9.0, 7.5)},
    "autoclip-percentiles": {
        name: (3, value)
        for name, value in (
            ("none", 2.5),
            ("p1", 2.4),
            ("p10", 2.35),
            ("p25", 2.3),
            ("p50", 2.4),
            ("p90", 2.5),
        )
    },
    "characters-spikes": {"none": (3, 2.2), "norm-1": (3, 2.0), "zclip": (3, 2.1)},
    "critic-slope": {
        "bound-0.1": (0.3, 0.2),
        "bound-0.01": (1, 1),
        "bound-0.001": (2, 2),
        "penalty": (0.1, 0.1),
    },
    "cartpole-cleanrl": {"norm-0.5": (100, 490)},
}
SIGNED = {"bound-0.1": 0.2, "bound-0.01": -1.0, "bound-0.001": -2.0, "penalty": 0.1}


def test_every_published_result_stands_beside_ours_when_the_full_budget_is_there() -> None:
    made = {}
    for task, methods in FULL.items():
        for method, values in methods.items():
            for seed in range(3):
                one = cell(task, method, seed, [*map(float, values)], "full")
                assert one.result is not None
                if method in SIGNED:
                    figures = replace(one.result.figures, held_out={"signed": SIGNED[method]})
                    one = replace(one, result=replace(one.result, figures=figures))
                made[one.key] = one
    found = {
        one.source.split()[0]: one for one in reversed(comparisons(boards(TASKS.values(), "full", made)))
    }
    assert {*found} == {"Pascanu,", "Seetharaman", "Kumar", "Gulrajani", "CleanRL,"}
    assert "100 steps: none 0 of 3 solved; threshold 1 0 of 3 solved" in found["Pascanu,"].ours
    music = comparisons(boards(TASKS.values(), "full", made))[1]
    assert music.ours == "none: 48; global norm 2: 6.9"
    assert music.sentence.startswith("As published, clipping is better")
    assert f"{percent(2.35 / 2.3 - 1, tenths=True)} behind the best" in found["Seetharaman"].sentence
    better, worse = (percent(share, tenths=True) for share in (2.2 / 2.1 - 1, 1 - 2.0 / 2.1))
    assert f"{better} better than none and {worse} worse than threshold 1" in found["Kumar"].sentence
    assert found["Gulrajani"].sentence == "As published."
    assert found["CleanRL,"].said.startswith("a return of 492.40 ± 13.05")
    assert found["CleanRL,"].ours == "490.0 ± 0.0 after 500,000 steps"
    assert found["CleanRL,"].sentence == "Within the published spread."
