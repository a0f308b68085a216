"""Servers that tests start for themselves."""

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

__all__ = ["postgresql"]


@pytest.fixture
def postgresql() -> Iterator[str]:
    """The address of a server of PostgreSQL's own programs, where they are installed."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin")) or [
        Path(found).parent for found in [shutil.which("initdb")] if found
    ]
    if not programs:
        pytest.skip("PostgreSQL's server is not installed")
    pytest.importorskip("psycopg", reason="psycopg, PostgreSQL's driver, is not installed")
    own = {"user": "nobody"} if os.getuid() == 0 else {}  # it refuses to run as root
    call = partial(subprocess.run, check=True, stdout=subprocess.DEVNULL, **own)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, socket.socket() as free:
        os.chmod(folder, 0o777)
        free.bind(("127.0.0.1", 0))
        port, data = free.getsockname()[1], f"{folder}/data"
        free.close()
        control = [programs[-1] / "pg_ctl", "-D", data, "-w"]
        call([programs[-1] / "initdb", "-D", data, "-U", "tuner", "-A", "trust"])
        call([*control, "-l", f"{folder}/log", "-o", f"-p {port} -k {folder} -h 127.0.0.1", "start"])
        yield f"postgresql://tuner@127.0.0.1:{port}/postgres"
        call([*control, "-m", "immediate", "stop"])
