"""What is asked before a release, and that versions are the same wherever they stand."""

import importlib.util
import re
import tomllib
from itertools import chain
from pathlib import Path

from packaging.requirements import Requirement

import clipwise

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def of_ci(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / ".ci" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


release = of_ci("release")


def rows(heading):
    """The first two cells of each row of a table in docs/stability.md."""
    text = (ROOT / "docs" / "stability.md").read_text().partition(f"| {heading} |")[2].partition("\n\n")[0]
    return [tuple(cell.strip() for cell in line.split("|")[1:3]) for line in text.splitlines()[2:]]


def test_the_version_that_is_built_is_the_one_of_the_package():
    assert release.version() == clipwise.__version__
    assert 'dynamic = ["version"]' in (ROOT / "pyproject.toml").read_text()
    assert f"version: {clipwise.__version__}\n" in (ROOT / "CITATION.cff").read_text()


def test_what_stands_in_the_way_is_said():
    ready = ("1.2.0", "## 1.2.0 (2030-01-01)\n", "version: 1.2.0\n", "", "v1.1.0\n")
    assert release.to_mend(*ready) == []
    for place, wrong in {
        1: "## Unreleased\n## 1.2.01\n",
        2: "version: 1.2.0.1\n",
        3: " M a.py\n",
        4: "v1.1.0\nv1.2.0\n",
    }.items():
        assert len(release.to_mend(*ready[:place], wrong, *ready[place + 1 :])) == 1


def test_every_extra_has_a_use_of_its_own():
    assert of_ci("uses").USES.keys() - PROJECT["optional-dependencies"].keys() == set()
    # What only develops and publishes clipwise is used by those who do.
    assert PROJECT["optional-dependencies"].keys() - of_ci("uses").USES.keys() == {"release"}


def test_the_versions_of_python_are_those_that_are_tested():
    named = [line.rpartition(" ")[2] for line in PROJECT["classifiers"] if ":: Python :: 3." in line]
    assert named[0] == PROJECT["requires-python"].removeprefix(">=")
    assert named == [version for version, _ in rows("Python")]
    for workflow in ("test.yml", "release.yml"):
        text = (ROOT / ".github" / "workflows" / workflow).read_text()
        assert set(re.findall(r'"(3\.\d+)"', text)) >= set(named)


def test_the_oldest_versions_are_those_that_are_tested():
    listed = chain(PROJECT["dependencies"], *PROJECT["optional-dependencies"].values())
    oldest = {
        one.name: bound.version
        for one in map(Requirement, listed)
        for bound in one.specifier
        if one.name in {"numpy", "torch", "jax", "tensorflow", "keras"}
    }
    assert oldest == dict(rows("package"))
    pinned = (ROOT / "constraints-oldest.txt").read_text()
    for name, version in oldest.items():
        name = "tensorflow-cpu" if name == "tensorflow" else name
        assert re.search(rf"^{name}=={re.escape(version)}(\.0)?$", pinned, re.MULTILINE), name


def test_what_is_installed_clips_as_numpy_on_the_widest_vectors(capsys):
    of_ci("installed").main()
    assert "as numpy" in capsys.readouterr().out
