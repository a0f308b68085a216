"""A copy of the tree that can be broken, and pytest in a process that has the heavy imports behind it."""

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["PATIENCE", "ROOT", "Tree"]

ROOT = Path(__file__).parents[2]
PATIENCE = 600.0
"""Seconds after which tests that do not end count as failed: what they saw is a break."""

ENGINES = "src/clipwise/torch/engines"


class Tree:
    """The files of the tree as they are now, committed or not, in another folder."""

    def __init__(self, folder: Path) -> None:
        self.root = folder
        command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        names = [name for name in listed.split("\0") if name and (ROOT / name).is_file()]
        names += [str(path.relative_to(ROOT)) for path in (ROOT / ENGINES).glob("_native*.so")]
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)

    @contextmanager
    def broken(self, file: str, text: str):
        """The tree with another text in one file; what is compiled is compiled anew, and put back."""
        path = self.root / file
        before = path.read_text(encoding="utf-8")
        compiled = {p: p.read_bytes() for p in (self.root / ENGINES).glob("_native*.so")}
        try:
            path.write_text(text, encoding="utf-8")
            if path.suffix in (".c", ".h"):
                self._compile()
            yield
        finally:
            path.write_text(before, encoding="utf-8")
            if path.suffix in (".c", ".h"):
                for library, content in compiled.items():
                    library.write_bytes(content)

    def _compile(self) -> None:
        command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace", "--force"]
        subprocess.run(command, cwd=self.root, capture_output=True, check=True)

    def test(self, tests: str, env: Mapping[str, str], log: Path) -> int:
        """pytest's exit code; 1 where the tests did not end."""
        child = os.fork()
        if not child:
            try:
                os._exit(self._pytest(tests, env, log))
            finally:
                os._exit(3)
        end = time.monotonic() + PATIENCE
        pause = 0.02
        try:
            while time.monotonic() < end:
                done, status = os.waitpid(child, os.WNOHANG)
                if done:
                    return os.waitstatus_to_exitcode(status) & 0xFF
                time.sleep(pause)
                pause = min(1.5 * pause, 0.5)
        except BaseException:
            self._end(child)
            raise
        self._end(child)
        return 1

    def _end(self, child: int) -> None:
        with suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
        os.waitpid(child, 0)

    def _pytest(self, tests: str, env: Mapping[str, str], log: Path) -> int:
        os.setsid()
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(out, 1)
        os.dup2(out, 2)
        os.chdir(self.root)
        paths = [str(self.root), str(self.root / "src")]
        # Compiled files know their source by the second, and a break may come and go within one.
        sys.dont_write_bytecode = True
        os.environ |= {
            "OMP_NUM_THREADS": "1",
            "KERAS_BACKEND": "jax",
            "PYTHONPATH": os.pathsep.join(paths),
            "PYTHONDONTWRITEBYTECODE": "1",
            **env,
        }
        for name in [name for name in sys.modules if name.partition(".")[0] in ("tests", "clipwise")]:
            del sys.modules[name]
        own = {"", str(ROOT), str(ROOT / "src")}
        sys.path[:] = [*paths, *(path for path in sys.path if path not in own)]
        import pytest

        cache = f"cache_dir={ROOT / '.pytest_cache' / 'mutations'}"
        return int(pytest.main(["-q", "-x", "-o", cache, *shlex.split(tests)]))
