"""Several replicas, in processes of their own: two workers, and two devices of one."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.depth import thorough

ROOT = Path(__file__).parents[2]


@thorough
@pytest.mark.parametrize("strategy", ["workers", "replicas"])
def test_what_replicas_train_is_what_one_trains(strategy):
    pytest.importorskip("keras")
    with socket.socket() as one, socket.socket() as other:
        for free in (one, other):
            free.bind(("127.0.0.1", 0))
        addresses = [f"127.0.0.1:{free.getsockname()[1]}" for free in (one, other)]
    processes = []
    for index in range(2 if strategy == "workers" else 1):
        environment = os.environ | {"KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3"}
        environment["CUDA_VISIBLE_DEVICES"] = "-1"
        if strategy == "workers":
            task = {"type": "worker", "index": index}
            environment["TF_CONFIG"] = json.dumps({"cluster": {"worker": addresses}, "task": task})
        command = [sys.executable, "-m", "tests.tensorflow.on_workers", strategy]
        processes.append(
            subprocess.Popen(
                command,
                cwd=ROOT,
                env=environment,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    try:
        for process in processes:
            _, errors = process.communicate(timeout=1800)
            assert process.returncode == 0, errors[-3000:]
    finally:
        for process in processes:
            process.kill()
