"""Choosing an engine of the PyTorch back end for the time of a test."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from clipwise.torch.engines import choice, native

# `foreach` keeps norms in torch, as on a GPU: on the CPU it stands in for the path of every other device.
ENGINES = ["native", "reference", "foreach"]


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
