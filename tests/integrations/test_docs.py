"""Every example on the page about trainers does what the page says."""

import doctest
from pathlib import Path

import pytest

for package in ("lightning.pytorch", "transformers", "accelerate"):
    pytest.importorskip(package)

PAGE = Path(__file__).parents[2] / "docs" / "trainers.md"


def test_the_examples(tmp_path):
    result = doctest.testfile(
        str(PAGE), module_relative=False, encoding="utf-8", globs={"folder": str(tmp_path)}
    )
    assert result.failed == 0
    assert result.attempted > 25
    assert (tmp_path / "checkpoint-2" / "clipwise.pt").is_file()
