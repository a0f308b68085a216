"""Where the new file goes: devices, pipes and links; disks that are full; what a terminal cannot show."""

import os
import resource
import subprocess
import sys
import threading
from pathlib import Path

import polars as pl
import pytest

from clipwise.cli import main
from clipwise.data import clip_file
from clipwise.errors import ArgumentError, DataError

FRAME = pl.DataFrame({"x": [1.0, 9.0], "größe": [1, 2]})
INSIDE = FRAME.with_columns(pl.col("x").clip(0, 5))
GO = ["data", "clip", "in.parquet", "out.parquet", "--given", "0", "5"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    FRAME.write_parquet("in.parquet")
    return tmp_path


def names():
    return sorted(path.name for path in Path().iterdir())


def read_once(pipe):
    """What comes out of a pipe, in a list that is filled when its writer is done."""
    found = []
    thread = threading.Thread(target=lambda: found.append(pipe.read_bytes()), daemon=True)
    thread.start()
    return thread, found


@pytest.mark.parametrize("link", [False, True], ids=["pipe", "link"])
@pytest.mark.parametrize("ending", [".parquet", ".csv", ""])
def test_a_pipe_is_written_to_and_stays(ending, link):
    pipe = Path(f"pipe{ending}")
    os.mkfifo(pipe)
    target = pipe
    if link:
        target = Path(f"link{ending}")
        target.symlink_to(pipe)
    for words in ([], ["--force"]):
        thread, found = read_once(pipe)
        assert main(["data", "clip", "in.parquet", str(target), "--given", "0", "5", *words]) == 0
        thread.join(60)
        (content,) = found
        table = pl.read_csv(content) if ending == ".csv" else pl.read_parquet(content)
        assert table.equals(INSIDE)
        assert pipe.is_fifo()
        assert target.is_symlink() == link


def test_bounds_go_into_a_pipe_too():
    pipe = Path("bounds.json")
    os.mkfifo(pipe)
    thread, found = read_once(pipe)
    assert main([*GO, "--save-bounds", "bounds.json", "--force"]) == 0
    thread.join(60)
    assert found[0].startswith(b'{"bounds"')
    assert pipe.is_fifo()


def test_a_pipe_is_no_source():
    os.mkfifo("pipe.csv")
    with pytest.raises(DataError, match=r"pipe.csv: not a regular file, which it must be"):
        clip_file("pipe.csv", "out.csv", "given", low=0)


def test_what_goes_to_the_standard_output_is_the_file_alone():
    command = [
        sys.executable,
        "-m",
        "clipwise",
        "data",
        "clip",
        "in.parquet",
        "/dev/stdout",
        "--given",
        "0",
        "5",
    ]
    done = subprocess.run(command, capture_output=True, check=True)
    assert pl.read_parquet(done.stdout).equals(INSIDE)
    assert b"2 rows in /dev/stdout" in done.stderr


@pytest.mark.parametrize("words", [[], ["--force"]])
def test_a_link_to_itself_is_one_sentence_and_changes_nothing(words, capsys):
    for name in ("loop.parquet", "loop.json"):
        Path(name).symlink_to(name)
    before = names()
    given = ["--given", "0", "5", *words]
    for command in (
        ["data", "clip", "in.parquet", "loop.parquet", *given],
        ["data", "clip", "loop.parquet", "out.parquet", *given],
        ["data", "clip", "in.parquet", "out.parquet", "--bounds", "loop.json", *words],
        ["data", "clip", "in.parquet", "out.parquet", "--save-bounds", "loop.json", *given],
    ):
        assert main(command) == 2
        said = capsys.readouterr()
        assert (said.out, said.err.count("\n")) == ("", 1)
        assert "loop." in said.err
        assert "Too many levels of symbolic links" in said.err
        assert names() == before
    assert os.readlink("loop.parquet") == "loop.parquet"


@pytest.mark.parametrize("name", ["out.parquet", "out.csv", "out.csv.gz"])
def test_a_full_disk_is_one_sentence_and_changes_nothing(name, capsys):
    pl.DataFrame({"x": [i**0.5 for i in range(50_000)]}).write_parquet("in.parquet")
    Path(name).write_text("precious")
    before = names()
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limit[1]))
    try:
        code = main(["data", "clip", "in.parquet", name, "--given", "0", "100", "--force"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    said = capsys.readouterr()
    assert (code, said.out, said.err.count("\n")) == (2, "", 1)
    assert f"{name} cannot be written (File too large)" in said.err
    assert Path(name).read_text() == "precious"
    assert names() == before


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="this system has no /dev/full")
def test_a_device_that_is_full_is_one_sentence(capsys):
    with pytest.raises(DataError, match=r"/dev/full cannot be written .No space left on device"):
        clip_file("in.parquet", "/dev/full", {"x": (0, 5)})
    assert main([*GO[:2], "in.parquet", "/dev/full", "--given", "0", "5", "--force"]) == 2
    assert Path("/dev/full").is_char_device()
    command = [sys.executable, "-m", "clipwise", *GO]
    with open("/dev/full", "wb") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "Error: the output cannot be written (No space left on device)\n"


def test_names_that_the_terminal_cannot_show_end_nothing():
    command = [sys.executable, "-m", "clipwise", *GO]
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run([*command, "--columns", "größe"], env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert b"2 rows in out.parquet" in done.stdout
    done = subprocess.run(
        [*command, "--columns", "größte", "--force"], env=environment, capture_output=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith(b"Error: in.parquet: no column 'gr")
    assert done.stderr.count(b"\n") == 1


def test_a_file_that_is_there_is_replaced_only_by_force():
    Path("out.parquet").write_text("precious")
    with pytest.raises(ArgumentError, match=r"out.parquet exists; force \(--force\) replaces it"):
        clip_file("in.parquet", "out.parquet", {"x": (0, 5)})
    assert Path("out.parquet").read_text() == "precious"
