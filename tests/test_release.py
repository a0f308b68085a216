"""What is asked before a release, and that the version stands in one place."""

import importlib.util
from pathlib import Path

import clipwise

ROOT = Path(__file__).parents[1]
SPEC = importlib.util.spec_from_file_location("release", ROOT / ".ci" / "release.py")
release = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(release)


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
