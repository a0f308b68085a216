"""Runs a command as a child process: signals are passed to it, and its exit code is returned."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

PASSED_ON = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2")
"""Signals that are the command's; USR1 is what Slurm sends before the time is up."""

FROM_KERNEL = 0x80
"""What Linux says of a signal that nobody sent, such as one of the terminal's: its group has it already."""


class CannotStart(Exception):
    """The command cannot be started.

    Attributes:
        code: the exit code that shells use: 127 if it is not found, 126 otherwise.
    """

    def __init__(self, sentence: str, code: int) -> None:
        super().__init__(sentence)
        self.code = code


def run(
    command: Sequence[str], environment: Mapping[str, str], started: Callable[[], None] | None = None
) -> int:
    """Run a command with the standard streams of this process; returns its exit code, 128 + n after signal n.

    Raises:
        CannotStart: the command does not exist, or cannot be run.
    """
    with _waiting() as wait:
        try:
            child = subprocess.Popen(command, env=dict(environment), **wait.options)
        except OSError as error:
            raise _sentence(command[0], error) from None
        if started is not None:
            started()
        code: int = wait(child)
    return code if code >= 0 else 128 - code


def _sentence(word: str, error: OSError) -> CannotStart:
    if isinstance(error, FileNotFoundError):
        return CannotStart(f"there is no command {word!r}", 127)
    return CannotStart(f"{word!r} cannot be run: {error.strerror or error}", 126)


@contextmanager
def _waiting() -> Iterator[Any]:
    """Ready for signals before the command is there, so that none goes by."""
    signals = {getattr(signal, name) for name in PASSED_ON if hasattr(signal, name)}
    kind = _Blocking if hasattr(signal, "sigtimedwait") else _Handling
    with kind(signals) as wait:
        yield wait


class _Blocking:
    """Takes signals one by one, with what the system says of where they came from (Linux)."""

    def __init__(self, signals: set[signal.Signals]) -> None:
        # Those that were ignored when this began, as under nohup, stay so; here and in the command.
        self._signals = {s for s in signals if signal.getsignal(s) is not signal.SIG_IGN}
        self._before: set[Any] = set()

    @property
    def options(self) -> dict[str, Any]:
        # A blocked signal would stay blocked in the command.
        return {"preexec_fn": lambda: signal.pthread_sigmask(signal.SIG_SETMASK, self._before)}

    def __enter__(self) -> "_Blocking":
        self._before = signal.pthread_sigmask(signal.SIG_BLOCK, {*self._signals, signal.SIGCHLD})
        return self

    def __exit__(self, *rest: object) -> None:
        while signal.sigtimedwait([*self._signals, signal.SIGCHLD], 0) is not None:
            pass  # one that came when the command had ended
        signal.pthread_sigmask(signal.SIG_SETMASK, self._before)

    def __call__(self, child: "subprocess.Popen[bytes]") -> int:
        while (code := child.poll()) is None:
            said = signal.sigtimedwait([*self._signals, signal.SIGCHLD], 1.0)
            if said is None or said.si_signo == signal.SIGCHLD or said.si_code == FROM_KERNEL:
                continue
            child.send_signal(said.si_signo)
        return code


class _Handling:
    """Handlers, where the system does not say where a signal came from; Ctrl-C reaches the command itself."""

    options: Mapping[str, Any] = MappingProxyType({})

    def __init__(self, signals: set[signal.Signals]) -> None:
        self._signals = {s for s in signals if signal.getsignal(s) is not signal.SIG_IGN}
        self._before: dict[Any, Any] = {}
        self._child: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "_Handling":
        self._before = {one: signal.signal(one, self._pass_on) for one in self._signals}
        return self

    def __exit__(self, *rest: object) -> None:
        for one, handler in self._before.items():
            signal.signal(one, handler)

    def __call__(self, child: "subprocess.Popen[bytes]") -> int:
        self._child = child
        return child.wait()

    def _pass_on(self, number: int, frame: Any) -> None:
        typed = number == signal.SIGINT and os.isatty(0)
        if self._child is not None and not typed:
            with contextlib.suppress(OSError):
                self._child.send_signal(number)
