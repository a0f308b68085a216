"""Export to Weights & Biases: a local run that ``wandb sync`` uploads, or an online run."""

import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from clipwise.errors import ArgumentError
from clipwise.monitor.exporters._base import A_RUN_EACH, Option, Tool
from clipwise.monitor.exporters._steps import Clock, named
from clipwise.monitor.store import Alert, Moment

LEVELS = {"info": "INFO", "warning": "WARN", "critical": "ERROR"}
MODES = ("offline", "online", "shared", "disabled")


class Wandb(Tool):
    """A W&B run: every series over ``step`` with its times, facts as its config, and alerts.

    Nothing leaves the machine by default: the mode is that of ``WANDB_MODE``, otherwise ``"offline"``, and
    W&B's collection of data about the machine (usage, errors, git, packages) is turned off. NaN and Inf are
    kept. Since a value may arrive late, W&B's own step counts rows, and charts are drawn over ``step``. The
    norm of a parameter's gradient is named ``clipwise/norm/<parameter>``.

    Args:
        project: name of the project.
        folder: where ``wandb/`` is created; by default W&B's own choice.
        mode: ``"offline"`` or ``"online"``.
        settings: further settings of W&B, such as ``entity="team"``.

    Attributes:
        place: folder of the run, once it has begun.

    Raises:
        ArgumentError: the mode is unknown.
        MissingPackageError: wandb is not installed.
    """

    name = "wandb"
    extra = "wandb"
    options = MappingProxyType(
        {
            "--out": Option("folder", "the folder of wandb/ [W&B's own choice]"),
            "--project": Option("project", "the project [clipwise]", metavar="NAME"),
        }
    )
    lacks = A_RUN_EACH

    def __init__(
        self,
        project: str = "clipwise",
        *,
        folder: str | os.PathLike[str] | None = None,
        mode: str | None = None,
        **settings: Any,
    ) -> None:
        mode = mode or os.environ.get("WANDB_MODE") or "offline"
        if mode not in MODES:
            raise ArgumentError(f"mode must be one of {', '.join(map(repr, MODES))}, got {mode!r}")
        if mode == "offline":  # read when wandb is imported
            os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        self._wandb = self.load("wandb")
        known = self._wandb.Settings.model_fields
        quiet = {
            "mode": mode,
            "console": "off",
            "silent": True,
            "disable_git": True,
            "save_code": False,
            "x_disable_stats": True,
            "x_disable_meta": True,
            "x_disable_machine_info": True,
            "x_save_requirements": False,
        }
        self._settings = {key: value for key, value in quiet.items() if key in known} | settings
        self._project, self._folder = project, folder
        self._run: Any = None
        self.place: Path | None = None

    def begin(self, run: str, facts: Mapping[str, Any], started: float | None = None) -> None:
        if self._folder is not None:
            Path(self._folder).mkdir(parents=True, exist_ok=True)
        self._run = self._wandb.init(
            project=self._project,
            name=run,
            config=dict(facts),
            dir=self._folder,
            reinit="create_new",  # a run that the script itself has is left alone
            settings=self._wandb.Settings(**self._settings),
        )
        self._run.define_metric("*", step_metric="step")
        self._clock = Clock(started)
        self.place = Path(self._run.dir).parent

    def write(self, moments: Sequence[Moment], alerts: Sequence[Alert] = ()) -> None:
        for step in self._clock.steps(moments):
            self._run.log({**named(step), "step": step.step, "_timestamp": step.time})
        for alert in alerts:
            # W&B drops a second one of the same title that comes too soon.
            title = f"{alert.rule} at step {alert.step}"[:63]
            text = f"{alert} (rank {alert.rank})"
            self._run.alert(title, text, LEVELS[alert.level], wait_duration=0.001)

    def close(self, status: str = "finished") -> None:
        if self._run is not None:
            self._run.finish(exit_code=0 if status in ("finished", "diverged", "running") else 1)
            self._run = None

    def hint(self) -> str:
        offline = self.place is not None and self.place.name.startswith("offline-run-")
        return shlex.join(["wandb", "sync", str(self.place)]) if offline else ""
