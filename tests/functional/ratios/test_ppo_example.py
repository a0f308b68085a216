"""The example runs as it is, in both modes, and writes the picture it was asked for."""

import importlib.util
import math
import pathlib
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("gymnasium")
pytest.importorskip("matplotlib")

EXAMPLE = pathlib.Path(__file__).parents[3] / "examples" / "ppo_cartpole.py"


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("ppo_cartpole", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    sys.modules["ppo_cartpole"] = module
    spec.loader.exec_module(module)
    return module


def test_quick_ablation_with_a_picture(example, monkeypatch, capsys, tmp_path):
    picture = tmp_path / "ways.png"
    arguments = ["--quick", "--ablation", "--steps", "512", "--out", str(picture)]
    monkeypatch.setattr(sys, "argv", ["ppo_cartpole.py", *arguments])
    example.main()
    said = capsys.readouterr().out
    for way in ("both clips", "ratio clip only", "gradient clip only", "no clip"):
        assert f"{way}, seed 1:" in said
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_it_runs_as_it_is():
    """As a program; too few steps are refused."""
    found = subprocess.run([sys.executable, str(EXAMPLE), "--steps", "10"], capture_output=True, text=True)
    assert found.returncode == 2
    assert "--steps must be at least 512, one rollout, got 10" in found.stderr


def test_it_learns(example):
    record = example.train(example.Settings(steps=6144, rate=1e-3), seed=1)
    # 6.0 times as much, on every vector width; 5.0 and 5.6 with two other seeds.
    assert record.last(20) > 2 * np.mean(record.returns[:20])
    assert len(record.updates) == 12
    assert all(math.isfinite(number) for update in record.updates for number in update.values())


def test_advantages(example):
    """Against the sum that defines them: of (gamma lambda)^k delta up to the end of the episode."""
    rng = np.random.default_rng(0)
    rewards, values = rng.normal(size=(2, 7, 1)).astype(np.float32)
    ends = np.asarray([0, 0, 1, 0, 0, 0, 0], np.float32)[:, None]
    following = np.asarray([0.7], np.float32)
    settings = example.Settings()
    found = example.generalised_advantages(rewards, values, following, ends, settings)
    later = np.append(values[1:, 0], following) * (1 - ends[:, 0])
    delta = rewards[:, 0] + settings.gamma * later - values[:, 0]
    for t in range(7):
        wanted, weight = 0.0, 1.0
        for k in range(t, 7):
            wanted += weight * delta[k]
            weight *= settings.gamma * settings.lam
            if ends[k, 0]:
                break
        assert found[t, 0] == pytest.approx(wanted, rel=1e-5)
