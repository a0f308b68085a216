"""The examples run as they are, in short; each says what it found, and draws where it is asked to."""

import subprocess
import sys
from pathlib import Path

from tests.depth import thorough

ROOT = Path(__file__).parents[2]


def said_by(name, *options):
    command = [sys.executable, f"examples/{name}.py", "--quick", *map(str, options)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_online_retail(tmp_path):
    said = said_by("online_retail", "--out", tmp_path / "a.png")
    assert "logistic regression" in said
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


@thorough
def test_swiss_roll(tmp_path):
    said = said_by("swiss_roll", "--out", tmp_path / "a.png")
    slopes = {
        line.split("  ")[0].strip(): float(line.split()[-1 if line.startswith("penalty") else -2])
        for line in said.splitlines()
        if line.startswith(("c = ", "penalty"))
    }
    assert slopes["c = 0.001"] < slopes["c = 0.01"] < -0.3  # vanishes
    assert abs(slopes["penalty"]) < 0.3
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


@thorough
def test_quantised_digits():
    assert "ReLU6" in said_by("quantised_digits")
