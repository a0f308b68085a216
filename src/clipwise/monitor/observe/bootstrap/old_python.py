"""For a Python that is older than clipwise supports: one message when torch or Keras is imported.

Run by ``sitecustomize.py``, in syntax that the oldest Pythons accept.
"""

import os
import sys

LEAST = (3, 11)
WATCHED = ("torch", "keras")


class Finder(object):  # noqa: UP004
    """Finds nothing: it hears of the import, says its sentence and goes."""

    def find_spec(self, name, path=None, target=None):  # type: (str, object, object) -> None
        self._hear(name)

    def find_module(self, name, path=None):  # type: (str, object) -> None
        self._hear(name)

    def _hear(self, name):  # type: (str) -> None
        if name in WATCHED:
            if self in sys.meta_path:
                sys.meta_path.remove(self)
            if is_first():
                words = (
                    "clipwise observe: nothing is recorded: clipwise needs Python {}.{}, and this is {}.{}\n"
                )
                sys.stderr.write(words.format(*(LEAST + tuple(sys.version_info[:2]))))


def is_first():  # type: () -> bool
    """Whether no other process of the command has written the message."""
    import json

    try:
        folder = json.loads(os.environ["CLIPWISE_OBSERVE"])["claims"]
        os.close(os.open(os.path.join(folder, "old-python"), os.O_CREAT | os.O_EXCL))
    except OSError:
        return False
    return True


def begin():  # type: () -> None
    """Wait for the script to import what it trains with."""
    sys.meta_path.insert(0, Finder())
