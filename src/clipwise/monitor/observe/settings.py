"""Settings that are passed to the processes of an observed command."""

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
    """What to record, and where.

    Attributes:
        db: absolute path of the recording.
        claims: a folder in which the processes agree on who records what; it exists as long as the command.
        clip: the clip, None for none.
        every, layers_every: as for `clipwise.Monitor`.
        package: folder of clipwise, for a Python in which it is not installed.
    """

    db: str
    claims: str
    clip: str | None = None
    every: int = 1
    layers_every: int = 10
    package: str = str(PACKAGE)

    def environment(self, uid: str, name: str) -> dict[str, str]:
        """The environment of the command: that of this process, plus what makes each Python in it observe."""
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
        """The settings that were passed to this process."""
        return cls(**json.loads(os.environ[SETTINGS]))
