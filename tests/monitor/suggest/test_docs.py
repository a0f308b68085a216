"""The page says what the code does."""

import doctest
from pathlib import Path
from typing import get_args

from clipwise.monitor.suggest import TYPICAL, Verdict
from clipwise.monitor.suggest._say import number

PAGE = Path(__file__).parents[3] / "docs" / "suggest.md"
TEXT = PAGE.read_text(encoding="utf-8")


def test_the_examples():
    result = doctest.testfile(str(PAGE), module_relative=False, encoding="utf-8")
    assert result.failed == 0
    assert result.attempted >= 7


def test_the_tables():
    for verdict in get_args(Verdict):
        assert f"`{verdict}` |" in TEXT
    for one in TYPICAL:
        value = number(one.low) if one.low == one.high else f"{number(one.low)} to {number(one.high)}"
        assert f"`{one.kind}`" in TEXT
        assert f"| {value} |" in TEXT
