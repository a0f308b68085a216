"""Install every extra alone in an empty environment, and use what it brings: `make test-extras`.

    python .ci/extras.py [EXTRA ...]      # all of pyproject.toml, unless some are named

Environments are removed as soon as they were tried. What failed keeps its output in build/extras.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
import venv
from dataclasses import dataclass
from pathlib import Path

from uses import USES, WITH

ROOT = Path(__file__).parents[1]
LOGS = ROOT / "build" / "extras"
PATIENCE = 1800  # seconds for one step


@dataclass
class Tried:
    extra: str
    packages: int = 0
    megabytes: int = 0
    seconds: float = 0.0
    failed: str = ""


def extras() -> list[str]:
    """Those of pyproject.toml but ``release``, which `make release` itself uses."""
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    return [extra for extra in listed if extra != "release"]


def words(step: str, bin_folder: Path) -> list[str]:
    """The command line of one step; see `uses`."""
    if step.startswith("$ "):
        name, *rest = step[2:].split()
        return [str(bin_folder / name), *rest]
    python = str(bin_folder / "python")
    if step.startswith("@"):
        name, *rest = step[1:].split()
        return [python, str(ROOT / name), *rest]
    return [python, "-c", step]


def try_one(extra: str, wheel: Path) -> Tried:
    """Install ``wheel[extra]`` and take the steps; the first that fails ends it."""
    found, began = Tried(extra), time.monotonic()
    together = ",".join(filter(None, [extra, WITH.get(extra)]))
    LOGS.mkdir(parents=True, exist_ok=True)
    log = LOGS / f"{extra}.txt"
    with tempfile.TemporaryDirectory() as folder, log.open("w") as output:
        place, empty = Path(folder, "venv"), Path(folder, "empty")
        empty.mkdir()
        venv.create(place)
        bin_folder = place / ("Scripts" if os.name == "nt" else "bin")
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(place)]
        there = os.environ | {"PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}"}
        # What programs keep in the home folder goes with the environment.
        own = there | {"HOME": str(empty), "CLIPWISE_CACHE": str(empty / "cache"), "OMP_NUM_THREADS": "1"}
        own["KERAS_BACKEND"] = "jax"
        own.pop("PYTHONPATH", None)
        constraints = ["-c", str(ROOT / "constraints.txt")]
        steps = [
            (["install", "--quiet", *constraints, f"{wheel}[{together}]"], pip, there),
            (["check"], pip, there),
        ]
        steps += [(words(step, bin_folder), [], own) for step in USES[extra]]
        for rest, before, environment in steps:
            output.write(f"\n$ {' '.join([*before, *rest])}\n")
            output.flush()
            try:
                code = subprocess.run(
                    [*before, *rest],
                    cwd=empty,
                    env=environment,
                    stdout=output,
                    stderr=output,
                    timeout=PATIENCE,
                ).returncode
            except subprocess.TimeoutExpired:
                code = f"timeout after {PATIENCE} s"
            if code:
                name = " ".join(rest).strip().splitlines()[0][:60]
                found.failed = f"{name} ({code}), see {log.relative_to(ROOT)}"
                break
        packages = next(place.glob("[Ll]ib*/**/site-packages"))
        found.packages = len(list(packages.glob("*.dist-info")))
        found.megabytes = sum(p.stat().st_size for p in packages.rglob("*") if p.is_file()) >> 20
    found.seconds = time.monotonic() - began
    return found


def main() -> None:
    known = extras()
    wanted = sys.argv[1:] or known
    for extra in wanted:
        if extra not in known:
            sys.exit(f"there is no extra {extra!r}; there are {', '.join(known)}")
    missing = [extra for extra in wanted if extra not in USES]
    if missing:
        sys.exit(f".ci/uses.py has no use of {', '.join(missing)}")
    with tempfile.TemporaryDirectory() as folder:
        # A copy of the sources: in the tree itself, what lies in build/ would go into the wheel.
        sources = Path(folder, "sources")
        for name in ("src", "setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"):
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            sources.mkdir(exist_ok=True)
            copy(ROOT / name, sources / name)
        pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", folder, str(sources)]
        subprocess.run(pip, check=True)
        (wheel,) = Path(folder).glob("*.whl")
        tried = []
        for number, extra in enumerate(wanted, 1):
            print(f"[{number}/{len(wanted)}] {extra} ...", end=" ", flush=True)
            tried.append(try_one(extra, wheel))
            print(f"{tried[-1].failed or 'works'} ({tried[-1].seconds:.0f} s)", flush=True)
    print(f"\n{'extra':14}{'packages':>9}{'MB':>7}{'seconds':>9}  result")
    for one in tried:
        print(f"{one.extra:14}{one.packages:9}{one.megabytes:7}{one.seconds:9.0f}  {one.failed or 'works'}")
    failed = [one.extra for one in tried if one.failed]
    if failed:
        sys.exit(f"\n{len(failed)} of {len(tried)} extras failed: {', '.join(failed)}")
    print(f"\nall {len(tried)} extras work")


if __name__ == "__main__":
    main()
