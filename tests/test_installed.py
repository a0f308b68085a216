"""Tests of a package that is not there are left out: so that no such run is green, it is said here."""

import tomllib
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]


def needed(extra: str) -> set[Requirement]:
    """What an extra of pyproject.toml asks for on this machine, with what is in the extras that it names."""
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    found = set()
    for requirement in map(Requirement, listed[extra]):
        if requirement.marker is not None and not requirement.marker.evaluate():
            continue
        inner = requirement.extras if requirement.name == "clipwise" else ()
        found.update(*map(needed, inner), () if inner else (requirement,))
    return found


def test_everything_that_the_tests_need_is_installed():
    there = {canonicalize_name(found.name): found.version for found in metadata.distributions()}
    wanted = {canonicalize_name(one.name): one.specifier for one in needed("dev") | needed("lab")}
    assert wanted.keys() >= {"torch", "jax", "keras", "lightning"}
    assert {
        name: there.get(name)
        for name, versions in wanted.items()
        if name not in there or not versions.contains(there[name], prereleases=True)
    } == {}
