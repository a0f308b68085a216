"""Every test here runs on every engine, except those of an engine itself."""

from pathlib import Path

import pytest

from tests.torch_engines import ENGINES, using

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
    if Path(metafunc.module.__file__).name not in OF_ONE_ENGINE:
        metafunc.parametrize("engine", ENGINES, indirect=True)


@pytest.fixture(autouse=True)
def engine(request: pytest.FixtureRequest):
    if not hasattr(request, "param"):
        yield None
        return
    with using(request.param):
        yield request.param
