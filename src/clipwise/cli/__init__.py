"""The command line of clipwise.

Heavy packages are imported by the commands that need them, so that ``clipwise --help`` is fast.
"""

import codecs
import errno
import os
import sys
from collections.abc import Sequence
from contextlib import suppress

from clipwise.errors import ClipwiseError
from clipwise.extras import needed

EXTRA = frozenset(
    {
        "click",
        "rich",
        "torch",
        "lightning_fabric",
        "lightning_utilities",
        "pydantic",
        "polars",
        "sklearn",
        "matplotlib",
        "gymnasium",
    }
)
"""What the extra ``clipwise[lab]`` brings along."""

INTERRUPTED = 130

SIGNS = dict(zip("•–—×µ━╸", "*--xu--", strict=True)) | {"…": "...", "∞": "inf", "→": "->"}
"""What stands for a sign that an encoding lacks."""


def main(args: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code.

    0: success. 2: a mistake in the command, which is explained in one sentence on stderr. 130: stopped by
    Ctrl-C, after saving what was trained. Unexpected errors show their traceback.

    Args:
        args: the arguments; by default those of the process.
    """
    # Threads that spin while they wait starve each other where another program wants the cores too: a step of
    # a small model can take a hundred times as long. OpenMP reads this when torch is first imported.
    # The command that observe runs is to find the environment as it was.
    if list(sys.argv[1:] if args is None else args)[:1] != ["observe"]:
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    for stream in (sys.stdout, sys.stderr):
        _spell_out(stream)
    try:
        with needed("the command line", "lab", EXTRA):
            import click

            from clipwise.cli.commands import cli

            try:
                return int(cli.main(args, prog_name="clipwise", standalone_mode=False) or 0)
            except click.ClickException as error:
                error.show()
                return error.exit_code
            except click.Abort:
                return _stopped()
    except KeyboardInterrupt:
        return _stopped()
    except ClipwiseError as error:
        return _mistake(str(error))
    except OSError as error:
        # One that has a file's name is not about what was printed.
        if error.filename is not None or error.errno not in (errno.ENOSPC, errno.EPIPE, errno.EIO):
            raise
        with suppress(OSError, ValueError), open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())  # or Python fails again when it ends
        return _mistake(f"the output cannot be written ({error.strerror})")


def _spell_out(stream: object) -> None:
    """Where the terminal or the pipe takes ASCII only, say, signs are written as near as they can be."""
    reconfigure = getattr(stream, "reconfigure", None)
    if reconfigure is not None and getattr(stream, "errors", "") == "strict":
        codecs.register_error("clipwise", _nearest)
        reconfigure(errors="clipwise")


def _nearest(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    found = error.object[error.start : error.end]
    return "".join(SIGNS.get(sign, "?") for sign in found), error.end


def _mistake(sentence: str) -> int:
    print(f"Error: {sentence}", file=sys.stderr)
    return 2


def _stopped() -> int:
    print("Interrupted.", file=sys.stderr)
    return INTERRUPTED
