"""Keras has one back end a process: what runs on that of this process is run on each other one here.

Each of them gets one process for the tests of on_backend/ and for the table of tests/conformance.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import keras
import pytest

from tests.conformance import back_ends
from tests.depth import thorough

ROOT = Path(__file__).parents[2]
OTHERS = [name for name in ("tensorflow", "torch", "jax") if name != keras.backend.backend()]
# Beside on_backend/, what else needs Keras on this back end.
ALSO = {"tensorflow": ["tests/tensorflow/test_training.py::test_with_an_optimizer_and_a_model_of_keras"]}


def run(backend: str, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"} | environment
    return subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("backend", OTHERS)
def test_on(backend):
    wanted = ["tests/keras/on_backend", *ALSO.get(backend, [])]
    if f"keras-{backend}" in back_ends.chosen():
        wanted.append("tests/conformance/table")
    command = ["-m", "pytest", "-p", "no:cacheprovider", *wanted]
    done = run(backend, *command, CLIPWISE_BACK_ENDS=f"keras-{backend}")
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed, done.stdout
    assert int(passed[1]) > 100, done.stdout


@thorough
def test_keras_loads_no_other_framework_with_us_than_without():
    code = (
        "import sys, keras; loaded = lambda: sorted({'jax', 'torch', 'tensorflow'} & set(sys.modules));"
        "print(loaded()); import clipwise.keras; print(loaded())"
    )
    assert run("jax", "-c", code).stdout.split("\n")[-3:-1] == ["['jax']"] * 2
