"""A path that no file can have is one sentence."""

import pytest

from clipwise.errors import DataError
from clipwise.lab.config.lab_config import parse_config
from clipwise.lab.tasks.load import load_task


@pytest.mark.parametrize("path", ["x" * 5000, "a\0b.txt"], ids=["long", "NUL"])
def test_a_path_that_no_file_can_have(path: str) -> None:
    config = parse_config({"model_type": "GRU", "task": "Language_Modeling", "data": {"path": path}})
    with pytest.raises(DataError) as caught:
        load_task(config)
    assert str(caught.value).startswith("data.path: ")
    assert "cannot be read" in str(caught.value)
    assert len(str(caught.value)) < 300
