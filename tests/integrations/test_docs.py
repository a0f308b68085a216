"""Every example on the pages about trainers does what the page says."""

import doctest
from pathlib import Path

import pytest

for package in ("lightning.pytorch", "transformers", "accelerate"):
    pytest.importorskip(package)

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize(
    ("page", "least"), [("lightning.md", 15), ("huggingface.md", 8), ("accelerate.md", 8)]
)
def test_the_examples(page, least, tmp_path):
    result = doctest.testfile(
        str(DOCS / page), module_relative=False, encoding="utf-8", globs={"folder": str(tmp_path)}
    )
    assert result.failed == 0
    assert result.attempted > least
    assert (tmp_path / "checkpoint-2" / "clipwise.pt").is_file() == (page == "huggingface.md")
