"""The tables, and the CSV, hold what was measured, diverged runs included."""

import csv
import io
import math

import pytest
from rich.console import Console

from clipwise.lab.compare.groups import group
from clipwise.lab.record import RunRecord
from clipwise.lab.report.table import Sheet, csv_text, rich_table, sheets
from tests.lab.records import clipped, record

NAN = math.nan


def row(sheet: Sheet, label: str) -> dict[str, str]:
    cells = next(cells for cells in sheet.rows if cells[0].text == label)
    return {name: cell.text for name, cell in zip(sheet.header, cells, strict=True)}


def tables(*runs: RunRecord, target: float | None = None) -> list[Sheet]:
    return sheets(group(runs, target=target), target=target)


def test_one_seed() -> None:
    runs = [record(held_out=[9.0, 8.0]), clipped(held_out=[3.0, 2.0], norm=[1.0, 2.0, 0.1, 0.1])]
    held_out, gradients, loss = tables(*runs, target=2.5)
    assert row(held_out, "clip_by_global_norm(0.5)") == {
        "clip": "clip_by_global_norm(0.5)",
        "bits": "2",
        "vs. none": "-75.0 %",
        "best": "2 at 4",
        "reached 2.5": "step 4, 2.0 s",
    }
    assert row(held_out, "no clipping")["reached 2.5"] == "never"
    assert row(gradients, "clip_by_global_norm(0.5)")["clipped"] == "50 %"
    assert row(gradients, "no clipping")["threshold"] == "–"
    assert row(loss, "no clipping")["time"] == "2.0 s"


def test_a_run_that_diverged_keeps_its_row() -> None:
    held_out, gradients, loss = tables(record(loss=[1.0, NAN], norm=[3.0, NAN]), clipped(held_out=[2.0]))
    assert row(held_out, "no clipping")["bits"] == "diverged"
    assert row(held_out, "clip_by_global_norm(0.5)")["vs. none"] == "–"
    assert row(gradients, "no clipping")["largest"] == "3"
    assert (row(loss, "no clipping")["final"], row(loss, "no clipping")["NaN/Inf"]) == ("NaN", "1")


def test_several_seeds_show_median_and_range() -> None:
    runs = [clipped(seed=s, held_out=[v], norm=[1.0, 3 * v, 1.0, 1.0]) for s, v in enumerate((2.0, 3.0, 2.2))]
    held_out, gradients, _ = tables(*runs)
    assert row(gradients, "clip_by_global_norm(0.5)")["largest"] == "9"  # of all, as the sentences have it
    cell = held_out.rows[0][1]
    assert (cell.text, cell.range, cell.mood) == ("2.2", "2 – 3", "best")


def test_one_diverged_seed_of_three_is_said_beside_the_median() -> None:
    runs = [clipped(seed=s, held_out=[2.0]) for s in range(2)] + [clipped(seed=2, loss=[1.0, NAN])]
    cell = tables(*runs)[0].rows[0][1]
    assert (cell.text, cell.range, cell.mood) == ("2", "1 of 3 diverged", "bad")


def test_two_diverged_seeds_of_three_are_a_divergence() -> None:
    runs = [clipped(seed=0, held_out=[2.0])] + [clipped(seed=s, loss=[1.0, NAN]) for s in (1, 2)]
    cell = tables(*runs)[0].rows[0][1]
    assert (cell.text, cell.range) == ("diverged", "2 of 3 seeds")


def test_target_reached_by_some_seeds() -> None:
    runs = [clipped(seed=s, held_out=[v]) for s, v in enumerate((2.0, 3.0, 4.0))]
    assert row(tables(*runs, target=3.0)[0], "clip_by_global_norm(0.5)")["reached 3"] == "2 of 3 seeds"


def test_no_difference_has_no_sign() -> None:
    assert (
        row(tables(record(held_out=[2.0]), clipped(held_out=[2.0]))[0], "clip_by_global_norm(0.5)")[
            "vs. none"
        ]
        == "0.0 %"
    )


def test_interrupted_is_not_compared() -> None:
    runs = [record(held_out=[8.0]), clipped(held_out=[2.0], interrupted=True)]
    found = row(tables(*runs)[0], "clip_by_global_norm(0.5)")
    assert (found["bits"], found["vs. none"]) == ("interrupted", "–")


def test_per_tensor_clipping_shows_both_shares() -> None:
    gradients = tables(clipped("clip_by_norm(1.0)", fraction=[0.5, 0.5, 0.0, 0.0]))[1]
    assert row(gradients, "clip_by_norm(1.0)")["clipped"] == "50 % (25 % of groups)"


def printed(sheet: Sheet, width: int, *, ranges: bool = True) -> list[str]:
    console = Console(width=width, file=io.StringIO())
    console.print(rich_table(sheet, width=width, ranges=ranges))
    lines: list[str] = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert all(len(line) <= width for line in lines)
    return lines


def columns(lines: list[str]) -> list[str]:
    """Each column without its spaces, header first; two characters that are blank in all lines end one."""
    rows = [line for line in lines[1:] if "─" not in line]
    width = max(map(len, rows))
    padded = [row.ljust(width) for row in rows]
    blank = [all(row[i] == " " for row in padded) for i in range(width)] + [True, True]
    found, start = [], 0
    for i in range(width + 1):
        if blank[i] and blank[i + 1] and not all(blank[start:i]):
            found.append("".join("".join(row[start:i].split()) for row in padded))
            start = i
    return found


@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize("width", [60, 80, 200])
def test_no_cell_is_cut_off(width: int, seeds: int) -> None:
    runs = [
        make(
            seed=s,
            held_out=[8.123 + s, 7.1],
            loss=[4.0, 3.0 + s, *[1.5] * 1497, 1.2345],
            norm=[1.2345 + s, 0.2282, 33.33, *[0.4454] * 1497],
            **name,
        )
        for s in range(seeds)
        for make, name in ((record, {}), (clipped, {"label": "clip_by_global_norm(0.1)"}))
    ]
    for run in runs:
        run.seconds = 14.1
    for index, sheet in enumerate(tables(*runs, target=7.5)):
        lines = printed(sheet, width, ranges=index == 0)
        whole = [
            "".join(
                f"{part}".replace(" ", "")
                for part in (
                    sheet.header[i],
                    *(row[i].text + (row[i].range if index == 0 else "") for row in sheet.rows),
                )
            )
            for i in range(len(sheet.header))
        ]
        assert columns(lines) == whole
    assert sum("14.1 s" in line for line in lines) == 2  # not broken between the number and its unit
    assert ("clip_by_global_norm(0.1)" in "\n".join(lines)) is (width >= 80)


def test_csv_has_a_row_a_run_and_every_figure() -> None:
    runs = [record(held_out=[8.0]), clipped(seed=0, held_out=[1 / 3]), clipped(seed=1, loss=[1.0, NAN])]
    rows = list(csv.DictReader(io.StringIO(csv_text(group(runs)))))
    assert [r["label"] for r in rows] == [
        "no clipping",
        "clip_by_global_norm(0.5)",
        "clip_by_global_norm(0.5)",
    ]
    assert float(rows[1]["final"]) == 1 / 3  # unrounded
    assert float(rows[1]["held_out_bits"]) == 1 / 3
    assert rows[2]["diverged_at"] == "2"
    assert rows[2]["error_reduction"] == ""
    assert math.isnan(float(rows[2]["final"]))
