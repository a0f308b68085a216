"""One call of ``clipwise observe``: checks, the command, and the summary."""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from clipwise import config
from clipwise.errors import ArgumentError
from clipwise.monitor.observe.process import CannotStart, run
from clipwise.monitor.observe.recording import has_stepped
from clipwise.monitor.observe.settings import Settings
from clipwise.monitor.observe.summary import summary
from clipwise.monitor.store import recordable
from clipwise.monitor.store._schema import open_database


def observe(
    command: Sequence[str],
    *,
    clip: str | None = None,
    db: str | os.PathLike[str] = "clipwise.db",
    name: str | None = None,
    every: int = 1,
    layers_every: int = 10,
    show: bool = False,
) -> int:
    """Run a command, and record every step of every optimizer in its processes.

    Args:
        command: its arguments, such as ``["python", "train.py"]``; ``["-m", "module"]`` and ``["train.py"]``
            are run by this Python.
        clip: a clip for all optimizers; None leaves gradients, and so the training, unchanged.
        db: the recording.
        name: name of the run; by default the script and the time.
        every, layers_every: as for `clipwise.Monitor`.
        show: open the live page during the run.

    Returns:
        The exit code of the command; 128 + n if signal n ended it; 127 or 126 if it cannot be started.

    Raises:
        ArgumentError, ConfigError, ThresholdError: the clip or a number is not valid. Nothing was started.
        StoreError: the file is not a recording of clipwise, has a newer version, or its folder does not
            exist.
    """
    if not command:
        raise ArgumentError("no command is given: clipwise observe -- python train.py")
    words = _words(command)
    if clip is not None and config.parse(clip) is None:
        clip = None
    path = recordable(db)
    if name is not None and not name:
        raise ArgumentError("the name of the run is empty")
    uid, name = uuid.uuid4().hex, name or _name(words)
    with _claims() as claims, _page(path) as (open_page, wait):
        settings = Settings(str(path), claims, clip=clip, every=every, layers_every=layers_every)
        try:
            code = run(words, settings.environment(uid, name), open_page if show else None)
        except CannotStart as error:
            print(f"Error: {error}", file=sys.stderr)
            return error.code
        sys.stdout.flush()
        stepped = has_stepped(Path(claims))
        for line in summary(path, uid, asked=str(db), command=command, clip=clip, stepped=stepped):
            print(line, file=sys.stderr)
        if show and sys.stdin.isatty() and sys.stderr.isatty():
            print("The page stays open until Ctrl-C.", file=sys.stderr)
            with contextlib.suppress(KeyboardInterrupt):
                wait()
    return code


def _words(command: Sequence[str]) -> list[str]:
    """The command as it is run: a module or a script that is named alone is for this Python."""
    words = list(command)
    if words[0] == "-m" or (words[0].endswith(".py") and not shutil.which(words[0])):
        return [sys.executable, *words]
    return words


def _name(words: Sequence[str]) -> str:
    """After the script or the module, and the time."""
    called = next((Path(word).stem for word in words if word.endswith(".py")), None)
    if called is None and "-m" in words[:-1]:
        called = words[words.index("-m") + 1]
    return f"{called or Path(words[0]).stem}-{time.strftime('%Y%m%d-%H%M%S')}"


@contextmanager
def _claims() -> Iterator[str]:
    folder = tempfile.mkdtemp(prefix="clipwise-observe-")
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _page(path: Path) -> Iterator[tuple[Callable[[], None], Callable[[], None]]]:
    """What opens the live page, and what waits until it ends by itself; it is closed at the end."""
    pages: list[subprocess.Popen[bytes]] = []

    def open_page() -> None:
        open_database(path, write=True).close()  # empty yet, and so something to look at
        command = [sys.executable, "-m", "clipwise", "dashboard", str(path), "--open"]
        # In a session of its own: Ctrl-C is the command's. What it prints is no output of the command.
        pages.append(
            subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=sys.stderr.fileno(),
                start_new_session=True,
            )
        )

    def wait() -> None:
        for page in pages:
            page.wait()

    try:
        yield open_page, wait
    finally:
        for page in pages:
            page.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                page.wait(5)
            if page.poll() is None:
                page.kill()
                page.wait()
