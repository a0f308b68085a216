"""Choosing an engine of the PyTorch back end for the time of a test."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from clipwise.torch.engines import choice, native

from .depth import THOROUGH

# `foreach` keeps norms in torch, as on a GPU: on the CPU it stands in for the path of every other device.
ENGINES = [name for name in choice.ENGINES if choice.ONLY_ON.get(name, "cpu") == "cpu"]
USUAL = "native" if native.available() else "reference"
"""The engine that people have on this CPU."""


def engines_of(test: pytest.Item) -> list[str]:
    """The usual engine; those that a marker asks for, too; and all of them where everything is tested.

    ``every_engine``: what the engines compute is what the test is about. ``device_path``: the code around
    them goes another way where norms stay on a device.
    """
    if THOROUGH or test.get_closest_marker("every_engine"):
        return ENGINES
    return [USUAL, "foreach"] if test.get_closest_marker("device_path") else [USUAL]


@contextmanager
def using(engine: str) -> Iterator[None]:
    if engine == "native" and not native.available():
        pytest.skip("the extension module was not built")
    before = os.environ.get("CLIPWISE_ENGINE")
    os.environ["CLIPWISE_ENGINE"] = engine
    choice.forget()
    try:
        yield
    finally:
        if before is None:
            del os.environ["CLIPWISE_ENGINE"]
        else:
            os.environ["CLIPWISE_ENGINE"] = before
        choice.forget()
