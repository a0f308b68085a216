"""One self-contained page: verdict, picture, tables, configuration, and how to reproduce it."""

import base64
import json
from collections.abc import Iterable, Mapping
from html import escape

from clipwise.dashboard.assets import assets
from clipwise.dashboard.document import document
from clipwise.lab.compare.figures import DEFINITIONS
from clipwise.lab.compare.verdict import headline, verdict
from clipwise.lab.report.page_style import STYLE
from clipwise.lab.report.results import Results
from clipwise.lab.report.table import Cell, Sheet, sheets
from clipwise.wording import number

__all__ = ["html_table", "picture_pair", "render"]

PICTURED = (
    "Held-out metric, training loss and gradient norm over the steps, and the share of steps clipped. The"
    " tables below hold the figures."
)


def render(results: Results, *, light: bytes, dark: bytes) -> str:
    """The page as HTML text.

    Args:
        results: what it shows.
        light: the picture as PNG for a light page.
        dark: the same for a dark one.
    """
    groups = results.groups()
    title = headline(groups)
    target = results.the_target()
    tables = "\n".join(html_table(sheet) for sheet in sheets(groups, target=target))
    seeds = sorted({record.seed for record in results.records})
    drawn = picture_pair(light, dark, f"{title}. {PICTURED}")
    body = f"""<main>
<header><p>{escape(_subtitle(results, seeds))}</p><h1>{escape(title)}</h1></header>
<section aria-label="What happened"><h2>What happened</h2>
{_list(verdict(groups))}</section>
<section aria-label="Picture"><div class="scroll" tabindex="0">{drawn}</div></section>
<section aria-label="Figures"><div class="scroll">
{tables}
</div>{_target_note(results, target)}</section>
<div class="columns">
<section aria-label="Configuration"><h2>Configuration</h2>
<pre>{_json(results.config)}</pre>
<details><summary><small>With every default</small></summary>
<pre>{_json(results.settings)}</pre></details></section>
<section aria-label="Reproduce"><h2>Reproduce it</h2>
<p>Save the configuration as <code>{escape(results.config_path)}</code>, then</p>
<pre class="command">{escape(results.command)}</pre>
<p>Made with</p>
{_definitions(results.environment)}
<p>To try next</p>
<pre class="command">{escape(results.next_command())}</pre></section>
</div>
<section><details><summary>What the figures mean</summary>
{_definitions(DEFINITIONS)}</details></section>
</main>"""
    return document(title, body, styles=[assets()["css/base.css"].decode("utf-8"), STYLE])


def _subtitle(results: Results, seeds: list[int]) -> str:
    config = results.settings
    what = " · ".join(str(config[key]).replace("_", " ") for key in ("model_type", "task") if key in config)
    many = f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {seeds[0]} to {seeds[-1]}" if seeds else ""
    return " · ".join(part for part in ("clipwise", what, many) if part)


def _json(data: Mapping[str, object]) -> str:
    return escape(json.dumps(dict(data), indent=2, ensure_ascii=False, default=str))


def _list(sentences: Iterable[str]) -> str:
    return "<ul>\n" + "".join(f"<li>{escape(sentence)}</li>\n" for sentence in sentences) + "</ul>\n"


def picture_pair(light: bytes, dark: bytes, text: str) -> str:
    """A picture in two versions, for light and dark pages, with an alternative text."""

    def address(png: bytes) -> str:
        return "data:image/png;base64," + base64.b64encode(png).decode("ascii")

    return (
        f'<picture><source media="(prefers-color-scheme: dark)" srcset="{address(dark)}">'
        f'<img src="{address(light)}" alt="{escape(text)}"></picture>'
    )


def html_table(sheet: Sheet) -> str:
    """A sheet as a table of HTML."""
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in sheet.header)
    columns = sheet.header[1:]
    rows = "".join(
        f'<tr><th scope="row">{escape(row[0].text)}</th>{"".join(map(_cell, row[1:], columns))}</tr>\n'
        for row in sheet.rows
    )
    caption = f"<caption>{escape(sheet.title)}</caption>"
    return f"<table>{caption}<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}</tbody></table>"


def _cell(cell: Cell, column: str) -> str:
    """With the name of its column, which stands before it where the window is too narrow for a table."""
    mood = f' class="{cell.mood}"' if cell.mood else ""
    spread = f"<small>{escape(cell.range)}</small>" if cell.range else ""
    return f'<td{mood} data-column="{escape(column)}"><span>{escape(cell.text)}{spread}</span></td>'


def _target_note(results: Results, target: float | None) -> str:
    if target is None:
        return ""
    chosen = (
        "what every run that came within 10 % of the best one's error reached in the end"
        if results.target is None
        else "as asked for"
    )
    several = (
        " Small figures: the range over the seeds." if len({r.seed for r in results.records}) > 1 else ""
    )
    return f"<p><small>The target is {escape(number(target))}: {chosen}.{several}</small></p>"


def _definitions(pairs: Mapping[str, str]) -> str:
    rows = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>\n" for name, text in pairs.items())
    return f"<dl>\n{rows}</dl>"
