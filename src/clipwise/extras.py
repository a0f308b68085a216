"""Optional packages: where one is missing, the error names the extra that brings it."""

import importlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from types import ModuleType

from clipwise.errors import MissingPackageError


@contextmanager
def needed(purpose: str, extra: str, packages: Collection[str]) -> Iterator[None]:
    """Around imports: one of ``packages`` that is missing raises `MissingPackageError`.

    A package beyond these is missing because another is broken; its own error passes.

    Args:
        purpose: what needs them, the subject of the message.
        extra: of clipwise, which brings them.
        packages: top-level names.

    >>> with needed("a", "b", ["nowhere"]):
    ...     import nowhere
    Traceback (most recent call last):
    clipwise.errors.MissingPackageError: a needs nowhere, which is not installed: pip install "clipwise[b]"
    """
    try:
        yield
    except MissingPackageError:
        raise
    except ModuleNotFoundError as error:
        package, _, inner = (error.name or "").partition(".")
        if package not in packages:
            raise
        upgrade = "-U " if inner else ""  # it is there, but too old to have this module
        raise MissingPackageError(
            f'{purpose} needs {error.name}, which is not installed: pip install {upgrade}"clipwise[{extra}]"',
            name=error.name,
        ) from error


def load(name: str, *, purpose: str, extra: str, packages: Collection[str] = ()) -> ModuleType:
    """Import a module by name.

    Args:
        name: of the module.
        purpose, extra: as for `needed`.
        packages: further ones that the extra brings, beside the module's own.

    Raises:
        MissingPackageError: it is not installed.
    """
    with needed(purpose, extra, {name.partition(".")[0], *packages}):
        return importlib.import_module(name)
