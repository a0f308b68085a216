"""What a program says, in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

__all__ = ["ROOT", "output_of"]

ROOT = Path(__file__).parents[2]


def output_of(*command: str | Path, **environment: str) -> str:
    """What Python says when it is called like this from the root of the repository; an error if it fails."""
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
