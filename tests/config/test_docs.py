"""Every example on the pages about clips and about configuration does what the page says."""

import doctest
import json
import re
from pathlib import Path

import pytest

from clipwise.config import parse
from clipwise.config.registry import methods
from clipwise.config.settings import DIRECT

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"
TEXT = PAGE.read_text(encoding="utf-8")


@pytest.mark.parametrize(("page", "count"), [("configuration.md", 20), ("clips.md", 4)])
def test_the_python_examples(page, count, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = doctest.testfile(str(PAGE.with_name(page)), module_relative=False, encoding="utf-8")
    assert result.failed == 0
    assert result.attempted > count


@pytest.mark.parametrize(("language", "count"), [("json", 3), ("yaml", 1)])
def test_the_file_examples(language, count):
    blocks = re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)
    assert len(blocks) == count
    for block in blocks:
        read = json.loads if language == "json" else pytest.importorskip("yaml").safe_load
        assert parse(read(block)) is not None


def test_the_table_of_other_libraries_is_right():
    for key, (library, make) in DIRECT.items():
        assert f"| `{key}` | {library} | `{make.__name__}`" in TEXT


def test_every_method_is_mentioned():
    for name in methods():
        assert f"`{name}`" in TEXT
