"""The recordings in ``recorded/``: how they were made is said in the README there."""

import csv
from collections.abc import Iterable
from pathlib import Path

from clipwise.monitor.rules import Engine, Moment, Rule, default_rules
from clipwise.monitor.store import Alert

FOLDER = Path(__file__).parent / "recorded"


def names() -> list[str]:
    return sorted(p.stem for p in FOLDER.glob("*.csv") if not p.stem.endswith(".layers"))


def recording(name: str) -> list[Moment]:
    """A recorded run, a moment a step."""
    with (FOLDER / f"{name}.layers.csv").open(encoding="utf-8") as file:
        layers = dict(_read(file))
    with (FOLDER / f"{name}.csv").open(encoding="utf-8") as file:
        return [Moment(step, "", values, layers.get(step, {})) for step, values in _read(file)]


def _read(file: Iterable[str]) -> list[tuple[int, dict[str, float]]]:
    rows = [{name: float(text) for name, text in row.items() if text != ""} for row in csv.DictReader(file)]
    return [(int(row.pop("step")), row) for row in rows]


def heard(rules: Iterable[Rule] | Rule, moments: Iterable[Moment]) -> list[Alert]:
    """All that some rules say of some moments."""
    engine = Engine([rules] if isinstance(rules, Rule) else list(rules))
    return [alert for moment in moments for alert in engine.see(moment)] + engine.close()


def by_default(moments: Iterable[Moment]) -> list[Alert]:
    return heard(default_rules(), moments)


def of(**series: list[float]) -> list[Moment]:
    """Moments from step 1 on; ``norm`` and its kin stand for ``clipwise/norm``."""
    own = ("norm", "norm_after", "threshold", "clip_fraction", "nonfinite", "skipped", "update_ratio")
    columns = {f"clipwise/{name}" if name in own else name: values for name, values in series.items()}
    count = len(next(iter(columns.values())))
    return [Moment(i + 1, "", {name: values[i] for name, values in columns.items()}) for i in range(count)]
