"""Running scripts with and without ``clipwise observe``."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

SCRIPTS = Path(__file__).parent / "scripts"
ENVIRONMENT = {
    **{k: v for k, v in os.environ.items() if not k.startswith("CLIPWISE_")},
    "OMP_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}


def run(*command: object, **options: Any) -> "subprocess.CompletedProcess[str]":
    """Run a command to its end, with what it writes."""
    environment = ENVIRONMENT | {key: str(value) for key, value in options.pop("env", {}).items()}
    return subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        timeout=300,
        env=environment,
        **options,
    )


def observed(*words: object, **options: Any) -> "subprocess.CompletedProcess[str]":
    """``clipwise observe`` with these words."""
    return run(sys.executable, "-m", "clipwise", "observe", *words, **options)
