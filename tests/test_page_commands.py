"""The command line and the pages agree: commands that pages show exist, and pages name every option."""

import re
import shlex
from pathlib import Path

import click

from clipwise.cli.commands import cli
from clipwise.cli.export import export

ROOT = Path(__file__).parents[1]
TEXT = "\n".join(
    page.read_text(encoding="utf-8")
    for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/*.md")]
    if page.name != "CHANGELOG.md"
)


def commands(command=cli, words=()):
    """Each command that does something, after its words."""
    if not isinstance(command, click.Group):
        return {words: export if words == ("export",) else command}  # which is imported when it is called
    inner = {}
    for name, one in command.commands.items():
        inner |= commands(one, (*words, name))
    return inner


def shown():
    """The lines of the pages that call clipwise, without what is behind ``--`` and in a comment."""
    lines = re.findall(r"^(?:    |\$ )(?:\w+=\S+ )*clipwise (.*)$", TEXT, re.M)
    lines += [line.replace("\n", " ") for line in re.findall(r"`clipwise ([a-z][^`]*)`", TEXT)]
    for line in lines:
        words = shlex.split(line, comments=True)
        yield words[: words.index("--")] if "--" in words else words


def test_commands_that_pages_show_exist():
    known, seen = commands(), 0
    for words in shown():
        place = next((place for n in (1, 2) if (place := tuple(words[:n])) in known), None)
        assert place or words[0] in {name for name, *_ in known}, words
        options = {option for one in known[place].params for option in one.opts} if place else set()
        assert {word for word in words if word.startswith("-")} <= options, words
        seen += 1
    assert seen > 60


def test_pages_name_every_command_and_option():
    for words, command in commands().items():
        assert f"clipwise {' '.join(words)}" in TEXT
        for one in command.params:
            if isinstance(one, click.Option) and not one.hidden:
                name = max(one.opts, key=len)
                assert re.search(rf"{name}(?![\w-])", TEXT), f"clipwise {' '.join(words)} {name}"
