"""What holds of every exporter, those that are added later included."""

import inspect
import tomllib
from pathlib import Path

import pytest

from clipwise.cli.export import _arguments, _flags, export
from clipwise.monitor.exporters import TOOLS, Exporter

ROOT = Path(__file__).parents[3]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"][
    "optional-dependencies"
]


@pytest.mark.parametrize("name", TOOLS)
def test_it_says_what_it_needs_and_is_in_the_docs(name):
    tool = TOOLS[name]
    assert tool.__module__ == f"clipwise.monitor.exporters.{name}"
    assert issubclass(tool, Exporter)
    assert tool.extra is None or tool.extra in EXTRAS
    install = f"`clipwise[{tool.extra}]`" if tool.extra else ""
    assert f"| `{name}` | {install}" in (ROOT / "docs" / "exporters.md").read_text(encoding="utf-8")
    assert tool.__doc__


@pytest.mark.parametrize("name", TOOLS)
def test_its_options_are_those_of_its_class(name):
    tool = TOOLS[name]
    known = inspect.signature(tool).parameters
    assert {option.parameter for option in tool.options.values()} <= known.keys()
    given = {flag: True if option.choices else "there" for flag, option in tool.options.items()}
    nothing = dict.fromkeys(_flags())
    found = _arguments(name, nothing | given)
    assert found.keys() == {option.parameter for option in tool.options.values()}
    assert all(
        option.choices for option in tool.options.values() if option.parameter in _arguments(name, nothing)
    )


def test_the_command_line_offers_all_of_them():
    choices = next(one for one in export.params if one.name == "to")
    assert list(choices.type.choices) == list(TOOLS)
    said = {
        flag: one.help for one in export.params for flag in getattr(one, "opts", ()) if flag.startswith("--")
    }
    for name, tool in TOOLS.items():
        for flag, option in tool.options.items():
            assert option.help in said[flag]
            assert name in said[flag]
