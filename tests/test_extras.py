"""What is said where an optional package is missing."""

import pytest

from clipwise.errors import ClipwiseError
from clipwise.extras import load, needed


def test_a_module_that_is_there_is_returned():
    import json.decoder

    assert load("json.decoder", purpose="this", extra="that") is json.decoder


@pytest.mark.parametrize("name", ["nosuchpackage", "nosuchpackage.inner"])
def test_a_missing_package_is_named_with_the_way_to_it(name):
    with pytest.raises(ModuleNotFoundError) as caught:
        load(name, purpose="the page", extra="dashboard")
    assert str(caught.value) == (
        'the page needs nosuchpackage, which is not installed: pip install "clipwise[dashboard]"'
    )
    assert caught.value.name == "nosuchpackage"
    assert isinstance(caught.value, ClipwiseError)


def test_one_that_is_too_old_is_to_be_upgraded():
    with pytest.raises(ModuleNotFoundError, match=r"needs json\.new, .*pip install -U \"clipwise\[all\]\""):
        load("json.new", purpose="this", extra="all")


def test_another_of_the_extra_counts_as_well(tmp_path, monkeypatch):
    (tmp_path / "page.py").write_text("import nosuchserver")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match=r"^No module named 'nosuchserver'"):
        load("page", purpose="this", extra="that")  # broken, and no extra mends it
    with pytest.raises(ModuleNotFoundError, match="this needs nosuchserver"):
        load("page", purpose="this", extra="that", packages=["nosuchserver"])


def test_the_first_message_stays():
    with pytest.raises(ModuleNotFoundError, match="inner needs"), needed("outer", "a", ["nosuchpackage"]):
        load("nosuchpackage", purpose="inner", extra="b")
