"""Build what is published, check it, and say what to do next: `make release`. Nothing is uploaded.

The wheel built here is for this machine and only shows that it can be built. Those that are published come
from cibuildwheel, whose settings are in pyproject.toml.
"""

import importlib.util
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
    """The sdist, and a wheel made from it as a user's pip makes it."""
    shutil.rmtree(DIST, ignore_errors=True)
    if importlib.util.find_spec("build"):
        run(sys.executable, "-m", "build", "--outdir", str(DIST), str(ROOT))
    else:
        code = "import sys; from setuptools.build_meta import build_sdist; build_sdist(sys.argv[1])"
        run(sys.executable, "-c", code, str(DIST))
        (sdist,) = DIST.glob("*.tar.gz")
        isolated = ["--no-build-isolation", "--no-deps"]
        run(sys.executable, "-m", "pip", "wheel", "--quiet", *isolated, "-w", str(DIST), str(sdist))
    (sdist,), (wheel,) = DIST.glob("*.tar.gz"), DIST.glob("*.whl")
    return sdist, wheel


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
        venv.create(folder, with_pip=True)
        python = str(next(Path(folder).glob("[bS]*/python*")))
        run(python, "-m", "pip", "install", "--quiet", "--no-deps", str(wheel))
        run(
            python, "-c", f"from importlib.metadata import version as of; assert of('clipwise') == '{number}'"
        )
    for tool, words in {"twine": ["check", "--strict"], "abi3audit": ["--strict"]}.items():
        if importlib.util.find_spec(tool):
            run(sys.executable, "-m", tool, *words, str(wheel))
        else:
            print(f"{tool} is not installed: not checked with it")


def refuse(found: list[str], what: str) -> None:
    if found:
        sys.exit(f"release: {what} {', '.join(found[:5])}")


def run(*words: str) -> str:
    done = subprocess.run(words, cwd=ROOT, check=True, text=True, stdout=subprocess.PIPE)
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
1. make test-all, on the commit that is to be published
2. git tag v{number} && git push origin v{number}
3. cibuildwheel --output-dir dist   (on each system; settings in pyproject.toml)
4. twine check --strict dist/* && twine upload dist/*
5. raise __version__, and begin '## Unreleased' in CHANGELOG.md""")


if __name__ == "__main__":
    main()
