"""Eight devices, forced on the host, in processes of their own."""

import os
import socket
import subprocess
import sys
from pathlib import Path

from tests.depth import thorough

ROOT = Path(__file__).parents[2]


def start(devices, *arguments):
    environment = {
        **os.environ,
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}",
        "JAX_PLATFORMS": "cpu",
        "KERAS_BACKEND": "jax",
    }
    return subprocess.Popen(
        [sys.executable, "-m", "tests.jax.on_devices", *arguments],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def end(*processes):
    try:
        for process in processes:
            _, errors = process.communicate(timeout=1800)
            assert process.returncode == 0, errors[-3000:]
    finally:
        for process in processes:
            process.kill()


def test_on_eight_devices():
    end(start(8))


@thorough
def test_on_four_devices_in_each_of_two_processes():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    end(*(start(4, address, str(rank)) for rank in range(2)))
