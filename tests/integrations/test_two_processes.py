"""Data parallel on two processes: the run of one process on the joined batch, the same on both."""

import os
import pathlib
import subprocess
import sys

import pytest
import torch
import torch.distributed as dist

from tests.depth import thorough

pytestmark = pytest.mark.skipif(
    not (dist.is_available() and dist.is_gloo_available()), reason="torch was built without gloo"
)
ROOT = pathlib.Path(__file__).parents[2]


def run(script, folder, *words):
    """The results of both ranks."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    quiet = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run(
        [sys.executable, *launcher, f"tests/integrations/{script}", str(folder), *words],
        cwd=ROOT,
        env=os.environ | quiet,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]


def assert_both_have(ranks, reference):
    for name, expected in reference.state_dict().items():
        first, second = (rank["model"][name] for rank in ranks)
        assert torch.equal(first, second)
        torch.testing.assert_close(first, expected, rtol=1e-5, atol=2e-6)


@thorough
def test_lightning(tmp_path):
    pytest.importorskip("lightning.pytorch")
    from tests.integrations.lightning_runs import sgd
    from tests.torch.loops.reference_loops import STEPS, batch, clip_globally, make_model

    ranks = run("two_processes_lightning.py", tmp_path)
    reference, losses, clipped = make_model(), [], 0
    opt = sgd(reference.parameters())
    for step in range(STEPS):
        opt.zero_grad()
        loss = reference(batch(step)[:4]).square().mean()
        loss.backward()
        losses.append(float(loss.detach()))
        clipped += clip_globally(reference, losses[-1])
        opt.step()
    assert clipped > 0
    assert_both_have(ranks, reference)
    for rank in ranks:  # the loss of both halves, not of its own
        assert rank["heard"] == pytest.approx(losses, rel=1e-5)


@thorough
def test_transformers(tmp_path):
    pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    from tests.integrations.transformers_runs import clip_globally, train_by_hand

    ranks = run("two_processes_transformers.py", tmp_path)
    thresholds = iter(ranks[0]["heard"])
    reference, rows = train_by_hand(lambda model: clip_globally(model, next(thresholds)), accumulate=2)
    assert ranks[0]["heard"] == pytest.approx([0.3 * row[2] for row in rows], rel=1e-5)
    assert sum(before > after for before, after, _ in rows) > 0
    assert ranks[0]["last"] == ranks[1]["last"]
    assert_both_have(ranks, reference)
    saved = [path.name for path in (tmp_path / "checkpoint-8").glob("clipwise.pt*")]
    assert saved == ["clipwise.pt"]
