"""Every test here runs on an engine or on several, except those of an engine itself; see `engines_of`."""

from pathlib import Path

import pytest

from tests.torch_engines import engines_of, using

# Of one engine, or of none.
OF_ONE_ENGINE = {
    "test_activations.py",
    "test_attention.py",
    "test_cuda.py",
    "test_native.py",
    "test_penalty.py",
    "test_triton.py",
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    named = any("engine" in marker.args[0] for marker in metafunc.definition.iter_markers("parametrize"))
    if not named and Path(metafunc.module.__file__).name not in OF_ONE_ENGINE:
        metafunc.parametrize("engine", engines_of(metafunc.definition), indirect=True)


@pytest.fixture(autouse=True)
def engine(request: pytest.FixtureRequest):
    if not hasattr(request, "param"):
        yield None
        return
    with using(request.param):
        yield request.param
