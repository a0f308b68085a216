"""What the processes of an observed command are told by the one that started it."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from clipwise.monitor.observe.bootstrap import SETTINGS

BOOTSTRAP = Path(__file__).parent / "bootstrap"
"""The folder that stands in front of ``PYTHONPATH``."""

PACKAGE = Path(__file__).parents[2]
"""The folder of clipwise."""


@dataclass(frozen=True)
class Settings:
    """What is recorded, and where.

    Attributes:
        db: absolute path of the recording.
        claims: a folder in which the processes agree on who records what; it lives as long as the command.
        clip: what is done to the gradients, None to leave them alone.
        every, layers_every: as for `clipwise.Monitor`.
        package: where clipwise is, for a Python that does not have it installed.
    """

    db: str
    claims: str
    clip: str | None = None
    every: int = 1
    layers_every: int = 10
    package: str = str(PACKAGE)

    def environment(self, uid: str, name: str) -> dict[str, str]:
        """The environment of the command: that of this process, and what makes each Python in it observe."""
        path = os.environ.get("PYTHONPATH")
        return {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(BOOTSTRAP), *([path] if path else [])]),
            SETTINGS: json.dumps(asdict(self)),
            "CLIPWISE_RUN": uid,
            "CLIPWISE_RUN_NAME": name,
        }

    @classmethod
    def here(cls) -> "Settings":
        """What this process was told."""
        return cls(**json.loads(os.environ[SETTINGS]))
