"""A file is written whole or not at all, whatever stands in its place."""

import os
import stat
import threading
from pathlib import Path

import pytest

from clipwise.errors import ArgumentError
from clipwise.files import check_new, replacing, save

posix = pytest.mark.skipif(os.name != "posix", reason="pipes, links and modes of POSIX")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_new_file_has_the_mode_of_any_other(tmp_path):
    (tmp_path / "plain").write_text("")
    save(tmp_path / "new", "text: \u00e9")
    assert (tmp_path / "new").read_bytes() == "text: \u00e9".encode()
    assert (tmp_path / "new").stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert names(tmp_path) == ["new", "plain"]


def test_the_old_file_is_there_until_the_new_one_is_complete(tmp_path):
    path = tmp_path / "a"
    path.write_text("old")
    with replacing(path) as part:
        part.write_text("new")
        (part.parent / "scratch").write_text("gone afterwards")
        assert part.parent.parent == tmp_path  # the same disk, so that moving it is one step
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize("error", [OSError("full"), KeyboardInterrupt()])
def test_an_error_leaves_what_was_there(tmp_path, error):
    path = tmp_path / "a"
    path.write_text("old")

    def write() -> None:
        with replacing(path) as part:
            part.write_text("half")
            raise error

    with pytest.raises(type(error)):
        write()
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a"]


@posix
def test_a_file_that_is_replaced_keeps_its_mode(tmp_path):
    path = tmp_path / "a"
    path.write_text("old")
    path.chmod(0o640)
    save(path, b"new", force=True)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


@posix
@pytest.mark.parametrize("there", [True, False])
def test_a_link_stays_and_what_it_leads_to_is_replaced(tmp_path, there):
    (tmp_path / "real").mkdir()
    real, link = tmp_path / "real" / "a", tmp_path / "link"
    if there:
        real.write_text("old")
    link.symlink_to(Path("real") / "a")
    save(link, "new", force=True)
    assert link.is_symlink()
    assert (real.is_symlink(), real.read_text()) == (False, "new")


@posix
def test_a_device_is_written_to_and_stays(tmp_path):
    device, link = tmp_path / "null", tmp_path / "link"
    try:
        os.mknod(device, stat.S_IFCHR | 0o600, os.stat(os.devnull).st_rdev)
        device.write_bytes(b"")
    except OSError:  # not the machine's own device: where devices can be made, it could be replaced
        pytest.skip("no device can be made here")
    link.symlink_to(device)
    for path in (device, link):
        save(path, b"into the void")
        assert stat.S_ISCHR(path.stat().st_mode)
    assert link.is_symlink()


@posix
def test_a_named_pipe_gets_the_content_at_once(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    heard: list[bytes] = []
    reader = threading.Thread(target=lambda: heard.append(pipe.read_bytes()), daemon=True)
    reader.start()
    with replacing(pipe) as part, part.open("wb") as file:
        file.write(b"..cd")
        file.seek(0)  # no pipe could do that
        file.write(b"ab")
    reader.join(10)
    assert heard == [b"abcd"]
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert names(tmp_path) == ["pipe"]


def test_mistakes(tmp_path):
    (tmp_path / "a").write_text("old")
    with pytest.raises(ArgumentError, match="a' already exists; --force overwrites it"):
        save(tmp_path / "a", b"new")
    with pytest.raises(ArgumentError, match=r"cannot write 'a.*b': .*embedded null"):
        check_new(Path("a\0b"))
    with pytest.raises(ArgumentError, match="is a folder; give a file"):
        check_new(tmp_path, force=True)
    with pytest.raises(ArgumentError, match="there is no folder"):
        check_new(tmp_path / "none" / "a")
    with pytest.raises(IsADirectoryError), replacing(tmp_path):
        pass
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "none" / "a"):
        pass
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "a"):
        pass  # nothing was written
    assert (tmp_path / "a").read_text() == "old"


@posix
def test_what_cannot_be_written_is_named(tmp_path):
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    with pytest.raises(ArgumentError, match=r"cannot write '.*loop': "):
        save(loop, b"")
