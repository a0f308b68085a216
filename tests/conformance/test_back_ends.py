"""The table of table/, on every back end that is chosen; one that is not installed fails."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from . import back_ends

ROOT = Path(__file__).parents[2]


def output_of(name: str) -> tuple[int, str]:
    environment = os.environ | {
        "CLIPWISE_BACK_END": name,
        "KERAS_BACKEND": name.partition("keras-")[2],
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "tests/conformance/table"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, timeout=840)
    return done.returncode, done.stdout[-6000:] + done.stderr[-2000:]


@pytest.mark.parametrize("name", back_ends.chosen())
def test_the_table(name):
    status, output = output_of(name)
    assert status == 0, output
    passed = re.search(r"(\d+) passed", output)
    assert passed, output
    assert int(passed[1]) > 10, output
