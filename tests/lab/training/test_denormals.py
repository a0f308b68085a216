"""A training counts denormal numbers as 0, in all threads; what it measures and decides stays what it is."""

import contextlib
import math
from pathlib import Path

import numpy as np
import pytest
import torch

import clipwise
from clipwise.clip import AnyClip
from clipwise.lab.config.lab_config import LabConfig, parse_config
from clipwise.lab.training.denormals import denormals_as_zero
from clipwise.lab.training.train import train
from clipwise.torch import Clipper

TINY = 1e-39  # below the smallest normal float32, 1.18e-38

if not torch.set_flush_denormal(False):
    pytest.skip("this processor cannot count denormal numbers as 0", allow_module_level=True)


@pytest.fixture
def config(tmp_path: Path) -> LabConfig:
    """A tiny language model."""
    (tmp_path / "t.txt").write_text("to be or not to be, that is the question. " * 40)
    data = {
        "model_type": "LSTM",
        "task": "Language_Modeling",
        "model_parameters": {"hidden_size": 8, "embedding_size": 4},
        "data": {"path": "t.txt"},
        "training_parameters": {
            "optimizer": "SGD",
            "learning_rate": 1.0,
            "steps": 20,
            "batch_size": 4,
            "sequence_length": 8,
        },
        "device": "cpu",
    }
    return parse_config(data, folder=tmp_path)


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_in_every_thread_and_only_while_it_is_entered(two_threads):
    tiny = torch.full((2_000_000,), TINY)
    assert tiny.mul(1.0).count_nonzero() == len(tiny)  # the threads are there now
    with denormals_as_zero():
        assert tiny.mul(1.0).count_nonzero() == 0
        with denormals_as_zero():
            pass
        assert tiny.mul(1.0).count_nonzero() == 0
    assert tiny.mul(1.0).count_nonzero() == len(tiny)


def test_it_ends_with_an_error_too():
    with pytest.raises(ZeroDivisionError), denormals_as_zero():
        raise ZeroDivisionError
    assert torch.full((), TINY) * 1.0 > 0


@pytest.mark.parametrize(("dtype", "value"), [
    (torch.float32, 1e-20), (torch.float32, 2e-38), (torch.float64, 1e-300), (torch.bfloat16, 2e-38),
    (torch.float16, 6e-8),  # denormal as a half, and no such thing in the arithmetic
])  # fmt: skip
@pytest.mark.parametrize("p", [1.0, 2.0, math.inf])
def test_small_numbers_are_measured_as_ever(dtype, value, p, two_threads):
    """Their squares lie far below float32, and those of 1e-300 below float64."""
    parameter = torch.nn.Parameter(torch.zeros(600_000, dtype=dtype))
    parameter.grad = torch.full_like(parameter, value)
    entry = float(parameter.grad[0].double())
    expected = entry * {1.0: len(parameter), 2.0: math.sqrt(len(parameter)), math.inf: 1}[p]
    clipper = Clipper([parameter], clipwise.clip_by_global_norm(expected / 2, norm=p))
    with denormals_as_zero():
        report = clipper.clip_()
    assert float(report.norm) == pytest.approx(expected, rel=1e-12)  # sums of 600,000 terms in float64
    assert float(report.threshold) == expected / 2
    if dtype != torch.float16 and entry / 2 >= torch.finfo(dtype).tiny:
        assert float(parameter.grad[-1].double()) == pytest.approx(entry / 2, rel=torch.finfo(dtype).eps)


@pytest.mark.parametrize("clip", [clipwise.auto(), clipwise.zclip(warmup=5), clipwise.autoclip(50)], ids=repr)
def test_a_run_without_such_numbers_is_the_same_to_the_last_bit(
    config: LabConfig, monkeypatch: pytest.MonkeyPatch, clip: AnyClip
):
    flushed = train(config, clip, label="a", role="given")
    monkeypatch.setattr("clipwise.lab.training.train.denormals_as_zero", contextlib.nullcontext)
    plain = train(config, clip, label="a", role="given")
    for name in ("loss", "norm", "threshold", "norm_after"):
        np.testing.assert_array_equal(flushed.steps[name], plain.steps[name])
    assert flushed.final == plain.final


def test_a_training_counts_them_as_zero_and_leaves_the_process_as_it_was(config: LabConfig):
    seen: list[bool] = []

    def look(*_: object) -> None:
        seen.append(bool(torch.full((), TINY) * 1.0 == 0.0))

    train(config, None, label="a", role="baseline", progress=look)
    assert set(seen) == {True}
    assert torch.full((), TINY) * 1.0 > 0
