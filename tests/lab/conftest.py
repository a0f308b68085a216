"""What the lab's tests share: one thread each, and data of packages kept in pytest's own cache."""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def data_cache(request: pytest.FixtureRequest) -> Iterator[None]:
    assert request.config.cache is not None
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLIPWISE_CACHE", str(request.config.cache.mkdir("clipwise-data")))
        yield


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """The models are tiny: a second thread only waits, for long where other tests run beside these."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
