"""The page is one well-formed file that asks for nothing outside itself."""

import re
from html.parser import HTMLParser

from clipwise.lab.compare.figures import DEFINITIONS
from clipwise.lab.compare.verdict import verdict
from clipwise.lab.report.page import render
from clipwise.lab.report.results import Results
from tests.lab.records import clipped, record

VOID = {"meta", "img", "source", "br"}
EVIL = "<script>alert('x')</script>&\"'"


class Outline(HTMLParser):
    """Checks that every tag is closed in order and collects what a browser would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.fetched: list[str] = []
        self.text: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        self.fetched += [value or "" for name, value in attrs if name in ("src", "srcset", "href", "data")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def results(**changes: object) -> Results:
    fields = {
        "name": "comparison",
        "records": (record(held_out=[8.0]), clipped(held_out=[2.0], norm=[1.0, 1.0, 0.1, 0.1])),
        "config_path": "demo.json",
        "config": {"model_type": "LSTM", "task": "Language_Modeling"},
        "settings": {"model_type": "LSTM", "task": "Language_Modeling", "seed": 0},
        "command": "clipwise compare demo.json",
        "environment": {"torch": "2.13.0"},
    }
    return Results(**(fields | changes))  # type: ignore[arg-type]


def outline(page: str) -> Outline:
    found = Outline()
    found.feed(page)
    found.close()
    assert found.open == []
    return found


def test_well_formed_and_self_contained() -> None:
    found = outline(render(results(), light=b"light", dark=b"dark"))
    assert found.fetched == ["data:image/png;base64,ZGFyaw==", "data:image/png;base64,bGlnaHQ="]
    assert "script" not in found.tags
    assert "link" not in found.tags


def test_no_address_outside_the_page() -> None:
    page = render(results(), light=b"", dark=b"")
    assert re.findall(r"(?:https?:)?//\w", page) == []
    assert re.findall(r"@import|url\(", page) == []
    assert "default-src 'none'" in page


def test_everything_asked_for_is_on_it() -> None:
    shown = results()
    text = " ".join(outline(render(shown, light=b"", dark=b"")).text)
    for sentence in verdict(shown.groups()):
        assert sentence in text
    for part in ("clipwise compare demo.json", "2.13.0", '"model_type": "LSTM"', shown.next_command()):
        assert part in text
    for name in DEFINITIONS:
        assert name in text


def test_text_is_escaped() -> None:
    run = clipped(EVIL, held_out=[2.0])
    page = render(
        results(
            records=(run,), command=EVIL, config={EVIL: EVIL}, config_path=EVIL, environment={EVIL: EVIL}
        ),
        light=b"",
        dark=b"",
    )
    found = outline(page)
    assert "script" not in found.tags
    assert EVIL in "".join(found.text)


def test_a_command_is_never_broken_within_an_option() -> None:
    page = render(results(), light=b"", dark=b"")
    assert '<pre class="command">' in page
    assert re.search(r"\npre \{[^}]*white-space: pre; overflow-x: auto;", page)
    assert re.findall(r"pre[^{}]*\{[^}]*(?:pre-wrap|anywhere)", page) == []


def test_both_modes_and_small_screens() -> None:
    page = render(results(), light=b"", dark=b"")
    assert "prefers-color-scheme: dark" in page
    assert 'name="viewport"' in page


def test_each_figure_comes_with_the_name_of_its_column() -> None:
    """In a narrow window a row of a table is a list of names and figures."""
    page = render(results(), light=b"light", dark=b"dark")
    for table in re.findall(r"<table>.*?</table>", page, re.DOTALL):
        columns = re.findall(r'<th scope="col">(.*?)</th>', table)[1:]
        rows = re.findall(r"<tr><th scope=\"row\">.*?</tr>", table)
        assert rows
        assert all(re.findall(r'data-column="(.*?)"', row) == columns for row in rows)
