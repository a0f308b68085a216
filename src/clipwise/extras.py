"""Optional packages: if one is missing, the error names the extra of clipwise that installs it."""

import importlib
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from types import ModuleType

from clipwise.errors import MissingPackageError


@contextmanager
def needed(purpose: str, extra: str, packages: Collection[str]) -> Iterator[None]:
    """A context for imports: if one of ``packages`` is missing, raise `MissingPackageError`.

    If another package is missing, an installed package is broken, and its own error is raised.

    Args:
        purpose: what needs the packages; the subject of the message.
        extra: the extra of clipwise that installs them.
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
        package = (error.name or "").partition(".")[0]
        if package not in packages:
            raise
        too_old = sys.modules.get(package) is not None  # it is there, without this module of it
        name, upgrade = (error.name, "-U ") if too_old else (package, "")
        raise MissingPackageError(
            f'{purpose} needs {name}, which is not installed: pip install {upgrade}"clipwise[{extra}]"',
            name=name,
        ) from error


def load(name: str, *, purpose: str, extra: str, packages: Collection[str] = ()) -> ModuleType:
    """Import a module by name.

    Args:
        name: name of the module.
        purpose, extra: as for `needed`.
        packages: other packages of the extra, besides the module's own.

    Raises:
        MissingPackageError: the module is not installed.
    """
    with needed(purpose, extra, {name.partition(".")[0], *packages}):
        return importlib.import_module(name)
