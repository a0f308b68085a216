"""The cache folder, and files that arrive whole or not at all."""

from pathlib import Path

import pytest
from platformdirs.macos import MacOS
from platformdirs.unix import Unix
from platformdirs.windows import Windows, get_win_folder_from_env_vars

from clipwise.errors import DataError
from clipwise.lab.data.cache import cache_folder, write_atomically


@pytest.mark.parametrize(("platform", "variable", "expected"), [
    (Unix, "XDG_CACHE_HOME", "{base}/clipwise"),
    (Unix, None, "{home}/.cache/clipwise"),
    (MacOS, None, "{home}/Library/Caches/clipwise"),
    (Windows, "LOCALAPPDATA", "{base}/clipwise"),
])  # fmt: skip
def test_the_platforms_own_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, platform: type, variable: str | None, expected: str
) -> None:
    for name in ("CLIPWISE_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("platformdirs.PlatformDirs", platform)
    monkeypatch.setattr("platformdirs.windows.get_win_folder", get_win_folder_from_env_vars)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    if variable:
        monkeypatch.setenv(variable, str(tmp_path / "base"))
    assert cache_folder() == Path(expected.format(base=tmp_path / "base", home=tmp_path / "home"))


def test_the_variable_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLIPWISE_CACHE", str(tmp_path / "here"))
    assert cache_folder() == tmp_path / "here"


def test_a_failure_leaves_the_old_file_and_no_part(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file"
    write_atomically(path, lambda part: part.write_text("old"))

    def fail(part: Path) -> None:
        part.write_text("half")
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError):
        write_atomically(path, fail)
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        write_atomically(tmp_path / "file" / "below", lambda part: part.write_text("x"))
