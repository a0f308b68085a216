"""The summary at the end of an observed command: what was seen, and what to try next."""

import contextlib
import shlex
import sqlite3
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from clipwise import config
from clipwise.errors import ClipwiseError
from clipwise.monitor._warning import line_width
from clipwise.monitor.store import NORM, PREFIX, Alert, Run, Store
from clipwise.monitor.store._schema import open_database
from clipwise.monitor.suggest import suggest_run
from clipwise.monitor.wording import number
from clipwise.wording import counted, printable

FRACTION, SKIPPED = f"{PREFIX}clip_fraction", f"{PREFIX}skipped"


def summary(
    path: Path, uid: str, *, asked: str, command: Sequence[str], clip: str | None, stepped: bool = False
) -> Iterator[str]:
    """Lines for people: steps, norms, alerts, the recommended threshold and a command to try next.

    Args:
        path: the recording.
        uid: id of the run.
        asked: the recording as the user named it.
        command: the command.
        clip: the clip.
        stepped: whether an optimizer step was seen.
    """
    try:
        runs = _runs(path, uid)
        if not runs and stepped:
            yield (
                f"clipwise: steps were seen, but the process ended before they were written to {asked}: a"
                " killed process loses up to a second of its data"
            )
        elif not runs:
            yield (
                f"clipwise: no step of an optimizer was seen, so nothing was recorded in {asked}"
                " (PyTorch's optimizers and Keras' fit are observed)"
            )
        for run in runs:
            yield from _about(path, run, asked, command, clip)
    except (ClipwiseError, sqlite3.Error, OSError) as error:
        yield f"clipwise: the recording cannot be summed up: {error}"


def _runs(path: Path, uid: str) -> list[Run]:
    """The runs of this command, in the order of their beginning."""
    if not path.is_file() or not path.stat().st_size:
        return []
    with contextlib.closing(open_database(path)) as database:
        rows = database.execute(
            "SELECT id FROM runs WHERE uid = ? OR uid LIKE ? ORDER BY id", (uid, f"{uid}-%")
        ).fetchall()
    ids = {row[0] for row in rows}
    with Store(path) as store:
        return sorted((run for run in store.runs() if run.id in ids), key=lambda run: run.id)


def _about(path: Path, run: Run, asked: str, command: Sequence[str], clip: str | None) -> Iterator[str]:
    where = "" if asked == "clipwise.db" else f" --db {shlex.quote(asked)}"
    with Store(path) as store:
        ranks = f", {len(run.ranks)} ranks" if len(run.ranks) > 1 else ""
        yield f"clipwise: run {printable(run.name)!r} in {asked}: {run.steps:,} steps{ranks}, {run.status}"
        if run.status == "diverged":
            yield from _wrapped(printable(run.note))
        sources = store.clippers(run.id, weights=False)
        for source in sources:
            yield f"  {_norms(store, run, source, len(sources) > 1)}"
        if not sources:
            yield "  no gradient norm was measured"
        for alert in _alerts(store, run):
            yield from _wrapped(alert)
        proposed: set[str | None] = set()
        for source in sources:
            said, line = _suggestion(store, run, source, len(sources) > 1)
            if said:
                yield from _wrapped(said)
            proposed.add(line)
    page = shlex.join(["clipwise", "dashboard", *([] if asked == "clipwise.db" else [asked])])
    yield f"  to look at: {page}"
    yield f"  more: clipwise suggest {shlex.quote(run.name)}{where}"
    line = proposed.pop() if len(proposed) == 1 else None  # --clip is one for all optimizers
    if line is not None and clip is None:
        words = ["clipwise", "observe", "--clip", line]
        yield f"  try next: {shlex.join(words)}{where} -- {shlex.join(command)}"


def _norms(store: Store, run: Run, source: str, several: bool) -> str:
    """``gradient norm: median 1.2, 95 % below 3.4, largest 56 (step 78); clipped in 9 % of the steps``."""
    found = store.series(run.id, [NORM, FRACTION, SKIPPED], source)
    norms = found[NORM]
    finite = np.isfinite(norms.values)
    values = norms.values[finite]
    called = f"gradient norm of {printable(run.title(source))}" if several or source else "gradient norm"
    if not len(values):
        return f"{called}: NaN or Inf in all of the {len(norms.values):,} steps"
    largest = int(np.argmax(values))
    three = (*np.quantile(values, [0.5, 0.95]), values[largest])
    median, high, most = (number(float(value)) for value in three)
    at = norms.steps[finite][largest]
    said = f"{called}: median {median}, 95 % below {high}, largest {most} (step {at:,})"
    if not finite.all():
        said += f"; NaN or Inf in {int((~finite).sum()):,} steps, first {norms.steps[~finite][0]:,}"
    clipped = found.get(FRACTION)
    share = 0.0 if clipped is None else float(np.mean(np.nan_to_num(clipped.values) > 0))
    if share > 0:
        said += f"; clipped in {share:.1%} of the steps"
    skipped = found.get(SKIPPED)
    left_out = 0 if skipped is None else int((skipped.values > 0).sum())
    return said + (f"; {left_out:,} skipped steps" if left_out else "")


def _alerts(store: Store, run: Run) -> Iterator[str]:
    """How often each rule spoke, and what it saw first; all it said was printed when it did."""
    by_rule: dict[str, list[Alert]] = {}
    for alert in store.alerts(run.id):
        by_rule.setdefault(alert.rule, []).append(alert)
    for rule, alerts in by_rule.items():
        first = alerts[0]
        said = first.seen if first.level != "info" else f"{first.seen} {first.why} {first.advice}"
        often = f" ({counted(len(alerts), 'time')})" if len(alerts) > 1 else ""
        yield printable(f"{first.level}: {rule}{often}: {said}")


def _wrapped(text: str) -> Iterator[str]:
    """Lines that fit; what follows the first stands below it."""
    yield from textwrap.wrap(text, line_width(), initial_indent="  ", subsequent_indent="    ")


def _suggestion(store: Store, run: Run, source: str, several: bool) -> tuple[str, str | None]:
    """The recommendation in a sentence, and the clip for the command line; nothing where there is none."""
    try:
        found = suggest_run(store, run, source=source)
        said = " ".join([found.headline, *found.reasons[:1]])
        line = None
        if found.clip is not None and found.verdict != "keep":
            line = config.to_string(found.clip)
    except ClipwiseError as error:
        said, line = f"no threshold can be recommended: {error}", None
    return (f"{printable(run.title(source))}: {said}" if several else said), line
