"""Bach's chorales: a score read by hand, and all of them against the package's own parser."""

from pathlib import Path

import numpy as np
import pytest

from clipwise.errors import DataError
from clipwise.lab.data import archives
from clipwise.lab.data.chorales import LOWEST, chorales, piano_roll


def note(step: str, octave: int, length: int, *, alter: int = 0, chord: bool = False) -> str:
    mark = "<chord/>" if chord else ""
    pitch = f"<pitch><step>{step}</step><alter>{alter}</alter><octave>{octave}</octave></pitch>"
    return f"<note>{mark}{pitch}<duration>{length}</duration></note>"


def score(*parts: str) -> bytes:
    return f"<score-partwise>{''.join(f'<part>{part}</part>' for part in parts)}</score-partwise>".encode()


DIVISIONS = "<attributes><divisions>6</divisions></attributes>"
REST = "<note><rest/><duration>{}</duration></note>"


def test_a_score_is_what_sounds_on_each_eighth() -> None:
    grace = "<note><grace/><pitch><step>D</step><octave>5</octave></pitch></note>"
    soprano = (
        f"<measure>{DIVISIONS}{note('C', 5, 6)}{grace}{note('B', 4, 3, alter=-1)}{note('A', 4, 3)}</measure>"
        f"<measure>{note('G', 4, 4)}{note('G', 4, 4, alter=1)}{note('A', 4, 4)}</measure>"  # a triplet
    )
    alto = (
        f"<measure>{DIVISIONS}{note('E', 4, 6)}{note('G', 4, 6, chord=True)}{REST.format(6)}</measure>"
        f"<measure>{note('F', 4, 12)}<backup><duration>12</duration></backup>"
        f"<forward><duration>6</duration></forward>{note('D', 4, 6)}</measure>"
    )
    bass = f"<measure>{DIVISIONS}{note('C', 3, 12)}</measure><measure>{note('C', 3, 12)}</measure>"
    roll = piano_roll(score(soprano, alto, bass, bass))
    assert roll is not None
    expected = [
        {72, 64, 67, 48},
        {72, 64, 67, 48},
        {70, 48},
        {69, 48},
        {67, 65, 48},
        {67, 65, 48},  # the second of the triplet begins after this eighth has
        {68, 65, 62, 48},
        {69, 65, 62, 48},
    ]
    assert [set(np.flatnonzero(step) + LOWEST) for step in roll] == expected
    assert piano_roll(score(soprano, alto, bass)) is None
    with pytest.raises(DataError, match="MIDI number 12 is no key of a piano"):
        piano_roll(score(*[f"<measure>{DIVISIONS}{note('C', 0, 6)}</measure>"] * 4))


def test_all_are_as_the_package_itself_reads_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rolls = chorales()
    # Counted by music21 10.5.1 itself, up to the last note of each.
    assert len(rolls) == 365
    assert sum(map(len, rolls)) == 39_728
    assert sum(int(roll.sum()) for roll in rolls) == 154_333

    def no_more(*args: object) -> None:
        raise DataError("fetched again")

    monkeypatch.setattr(archives, "download", no_more)
    again = chorales()
    assert all((one == other).all() for one, other in zip(rolls, again, strict=True))
    monkeypatch.setenv("CLIPWISE_CACHE", str(tmp_path))
    damaged = tmp_path / "prepared" / "chorales-10.5.1-v1.npz"
    damaged.parent.mkdir()
    damaged.write_bytes(b"no zip at all")
    with pytest.raises(DataError, match="fetched again"):
        chorales()
    assert "is damaged" in caplog.text
