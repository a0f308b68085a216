"""Bach's chorales in four parts, as what sounds on each eighth note.

The scores are compressed MusicXML (a zip with one XML file). They are read here directly, in seconds; the
package that carries them needs the better part of a minute for it, and would have to be installed.
"""

import io
import logging
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeAlias
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import numpy as np

from clipwise.errors import DataError
from clipwise.lab.data import archives
from clipwise.lab.data.cache import cache_folder, write_atomically

__all__ = ["KEYS", "LOWEST", "chorales", "piano_roll"]

log = logging.getLogger(__name__)

Roll: TypeAlias = np.ndarray[Any, np.dtype[np.bool_]]
Note: TypeAlias = tuple[Fraction, Fraction, int]
"""Where it begins and ends, in quarter notes, and its MIDI number."""

KEYS, LOWEST = 88, 21
"""Those of a piano, and the MIDI number of the lowest."""
PARTS = 4
FOLDER = "music21/corpus/bach/"
SEMITONES = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}

VERSION = 1
"""Part of the cached file's name: raise it whenever `piano_roll` changes."""


def chorales() -> list[Roll]:
    """The 365 chorales in the order of their file names, each ``(steps, 88)``: whether a key sounds.

    Made from the package on the first call, read from the cache after that.

    Raises:
        DataError: the package cannot be fetched, or is not as expected.
    """
    path = cache_folder() / "prepared" / f"chorales-{archives.MUSIC21.version}-v{VERSION}.npz"
    if path.is_file():
        try:
            return _read(path)
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            log.warning("%s is damaged (%s); it is made again", path, str(error).split("\n")[0])
    with tempfile.TemporaryDirectory(prefix="clipwise-") as scratch:
        rolls = list(_rolls(archives.download(archives.MUSIC21, Path(scratch))))
    write_atomically(path, lambda part: _write(part, rolls))
    return rolls


def _rolls(wheel: Path) -> Iterator[Roll]:
    with zipfile.ZipFile(wheel) as archive:
        for name in sorted(archive.namelist()):
            if name.startswith(FOLDER) and name.endswith((".mxl", ".xml")):
                content = archive.read(name)
                roll = piano_roll(_inner(content) if name.endswith(".mxl") else content)
                if roll is not None:
                    yield roll


def _inner(content: bytes) -> bytes:
    """The score in a compressed MusicXML file; beside it lies a folder that only says where it is."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        names = [name for name in archive.namelist() if not name.startswith("META-INF")]
        return archive.read(next(name for name in names if name.endswith("xml")))


def piano_roll(score: bytes) -> Roll | None:
    """What sounds at the beginning of each eighth note; None unless there are four parts.

    It ends with the last note. Repeats are not played.

    Args:
        score: MusicXML, part by part.

    Raises:
        DataError: a note is beyond the piano.
    """
    parts = ElementTree.fromstring(score).findall("part")
    if len(parts) != PARTS:
        return None
    notes = [note for part in parts for note in _notes(part)]
    roll = np.zeros((_eighth(max(end for _, end, _ in notes)), KEYS), bool)
    for begin, end, pitch in notes:
        if not LOWEST <= pitch < LOWEST + KEYS:
            raise DataError(f"a note of the MIDI number {pitch} is no key of a piano")
        roll[_eighth(begin) : _eighth(end), pitch - LOWEST] = True
    return roll


def _notes(part: Element) -> Iterator[Note]:
    """The notes of a part; ties need nothing, since both notes sound."""
    per_quarter, bar = Fraction(1), Fraction(0)
    for measure in part.findall("measure"):
        at = begin = furthest = bar
        for item in measure:
            if item.tag == "attributes" and item.find("divisions") is not None:
                per_quarter = _number(item, "divisions")
            elif item.tag == "forward":
                at += _number(item, "duration") / per_quarter
            elif item.tag == "backup":  # a second voice on the same staff
                at -= _number(item, "duration") / per_quarter
            elif item.tag == "note" and item.find("grace") is None:
                length = _number(item, "duration") / per_quarter
                if item.find("chord") is None:  # a note of a chord begins with the one before it
                    begin, at = at, at + length
                pitch = item.find("pitch")
                if pitch is not None:
                    yield begin, begin + length, _midi(pitch)
            furthest = max(furthest, at)
        bar = furthest


def _number(item: Element, name: str) -> Fraction:
    return Fraction(item.findtext(name, ""))


def _midi(pitch: Element) -> int:
    step, octave = pitch.findtext("step", ""), int(pitch.findtext("octave", ""))
    return 12 * (octave + 1) + SEMITONES[step] + int(pitch.findtext("alter", "0"))


def _eighth(quarters: Fraction) -> int:
    """The first eighth note that does not begin before."""
    return -int(-2 * quarters // 1)


def _write(path: Path, rolls: Sequence[Roll]) -> None:
    # Opened here, since numpy would add an ending to a name.
    with path.open("wb") as file:
        np.savez_compressed(
            file, keys=np.packbits(np.concatenate(rolls), axis=1), steps=[len(roll) for roll in rolls]
        )


def _read(path: Path) -> list[Roll]:
    with np.load(path, allow_pickle=False) as file:
        keys = np.unpackbits(file["keys"], axis=1, count=KEYS).astype(bool)
        return np.split(keys, np.cumsum(file["steps"])[:-1])
