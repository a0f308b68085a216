"""The page says what the code does."""

import doctest
from pathlib import Path
from typing import get_args

from clipwise.monitor.suggest import TYPICAL, Verdict
from clipwise.monitor.wording import number

PAGE = Path(__file__).parents[3] / "docs" / "suggest.md"
TEXT = PAGE.read_text(encoding="utf-8")


def test_the_examples():
    result = doctest.testfile(str(PAGE), module_relative=False, encoding="utf-8")
    assert result.failed == 0
    assert result.attempted >= 7


def test_the_tables():
    for verdict in get_args(Verdict):
        assert f"`{verdict}` |" in TEXT
    rows = TEXT[TEXT.index("| `kind` |") :].splitlines()[2:]
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows if row.startswith("|")]
    for place, row in enumerate(cells):
        row[0] = row[0] or cells[place - 1][0]  # the kind of the row above
    told = [(kind, value) for kind, _, value, _ in cells]
    for one in TYPICAL:
        value = number(one.low) if one.low == one.high else f"{number(one.low)} to {number(one.high)}"
        assert (f"`{one.kind}`", value) in told
    assert len(told) == len(TYPICAL)
