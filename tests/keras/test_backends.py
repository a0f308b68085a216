"""Keras chooses its back end when it is imported, so each has its own process."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parent.parent


def on(backend: str, *command: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {
        "KERAS_BACKEND": backend,
        "CLIPWISE_KERAS_TESTS": "1",
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    return subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("backend", ["jax", "tensorflow", "torch"])
def test_on(backend):
    if importlib.util.find_spec("keras") is None or importlib.util.find_spec(backend) is None:
        pytest.skip(f"Keras or {backend} is not installed")
    done = on(backend, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", str(HERE / "on_backend"))
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]


def test_keras_loads_no_other_framework_with_us_than_without():
    if importlib.util.find_spec("keras") is None or importlib.util.find_spec("jax") is None:
        pytest.skip("Keras or jax is not installed")
    found = []
    for ours in ("", "import clipwise.keras;"):
        code = f"import sys, keras; {ours} print(sorted({{'jax', 'torch', 'tensorflow'}} & set(sys.modules)))"
        found.append(on("jax", "-c", code).stdout.strip().splitlines()[-1])
    assert found[0] == found[1] == "['jax']"
