"""Keras in processes of its own; then who ran, which comes last."""

import os
import re
import subprocess
import sys
from importlib.util import find_spec

import pytest

from . import back_ends

pytestmark = pytest.mark.skipif(back_ends.own_process() is not None, reason="this is one of those processes")


@pytest.mark.parametrize("back_end", [name for name in back_ends.KERAS if name in back_ends.chosen()])
def test_keras(back_end):
    environment = os.environ | {
        "CLIPWISE_KERAS_PROCESS": back_end,
        "KERAS_BACKEND": back_end.removeprefix("keras-"),
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/conformance"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed
    assert int(passed[1]) > 100


def test_every_back_end_that_was_chosen_ran(request):
    if len(request.session.items) < 500:
        pytest.skip("only a part of the table was asked for")
    missing = [name for name in back_ends.chosen() if not back_ends.RAN.get(name)]
    assert not missing, f"did not run, or failed: {', '.join(missing)}"


def test_a_framework_that_should_be_installed_is():
    for name in ("torch", "jax", "optax", "keras", "tensorflow"):
        assert find_spec(name), f"{name} is not installed: pip install 'clipwise[dev]'"
