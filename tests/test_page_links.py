"""Links inside the repository lead somewhere: from page to page, to a heading, from code to a page."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    {
        *ROOT.glob("*.md"),
        *(page for folder in ("docs", "examples", "benchmarks") for page in (ROOT / folder).rglob("*.md")),
    }
)


def without_code(text):
    return re.sub(r"^```.*?^```$|^    .*?$", "", text, flags=re.M | re.S)


def anchors(page):
    """Of the headings of a page, as code hosts and MyST make them."""
    headings = re.findall(
        r"^#+ (.*)$", re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S), re.M
    )
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_links_between_pages_lead_to_a_file_and_a_heading():
    count, lost = 0, []
    for page in PAGES:
        for target in re.findall(r"\]\(([^)\s]+)\)", without_code(page.read_text(encoding="utf-8"))):
            if re.match(r"\w+:", target):
                continue
            count += 1
            path, _, anchor = target.partition("#")
            at = (page.parent / path).resolve() if path else page
            if not at.exists() or (anchor and anchor not in anchors(at)):
                lost.append(f"{page.relative_to(ROOT)}: {target}")
    assert not lost
    assert count > 300


def test_pages_that_the_code_names_are_there():
    named = {
        name
        for folder in ("src", "examples", "benchmarks", "docs")
        for path in (ROOT / folder).rglob("*.py")
        for name in re.findall(
            r"\b(?:docs|benchmarks|examples)/[\w/.-]+\.(?:md|py|json)\b", path.read_text(encoding="utf-8")
        )
    }
    assert len(named) > 15
    assert not {name for name in named if not (ROOT / name).exists()}


def test_every_picture_is_on_a_page():
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    pictures = [path for kind in ("png", "svg") for path in (ROOT / "docs").rglob(f"*.{kind}")]
    assert len(pictures) > 20
    assert not {path.name for path in pictures if f"{path.name})" not in text}
