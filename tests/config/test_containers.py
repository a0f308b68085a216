"""Mappings and lists that are not Python's own, as Hydra and OmegaConf hand them over."""

from collections.abc import Mapping, Sequence

import pytest

from clipwise import clip as c
from clipwise.config import parse
from clipwise.errors import ConfigError


class MissingMandatoryValue(Exception):
    """Called as OmegaConf's own is, which is known by its name."""


class DictLike(Mapping):
    """As OmegaConf's DictConfig: ``in`` is False for what is missing, reading it is an error."""

    def __init__(self, data):
        self.data = data

    def __getitem__(self, key):
        value = self.data[key]
        if value == "???":
            raise MissingMandatoryValue(f"Missing mandatory value: {key}\n    full_key: {key}")
        if value == "${nope}":
            raise RuntimeError("Interpolation key 'nope' not found\n    full_key: here")
        return value

    def __contains__(self, key):
        return self.data.get(key, "???") != "???"

    def __iter__(self):
        return iter(self.data)

    def __len__(self):
        return sum(value != "???" for value in self.data.values())


class ListLike(Sequence):
    def __init__(self, *items):
        self.items = items

    def __getitem__(self, i):
        if self.items[i] == "???":
            raise MissingMandatoryValue("Missing mandatory value: [0]")
        return self.items[i]

    def __len__(self):
        return len(self.items)


def of_omegaconf(data):
    return pytest.importorskip("omegaconf").OmegaConf.create(data)


def of_protocols(data):
    """Plain data in containers that are nothing but what the protocols ask for."""
    if isinstance(data, dict):
        return DictLike({key: of_protocols(value) for key, value in data.items()})
    if isinstance(data, list):
        return ListLike(*map(of_protocols, data))
    return data


kinds = pytest.mark.parametrize("kind", [of_protocols, of_omegaconf])


@kinds
@pytest.mark.parametrize(
    ("data", "clip"),
    [
        (
            {"method": "chain", "clips": ["value(5)", {"method": "norm", "threshold": 1}]},
            c.chain(c.clip_by_value(5), c.clip_by_norm(1)),
        ),
        ({"method": "clip", "per": "element", "threshold": [-1, 1]}, c.clip_by_value(low=-1, high=1)),
        ({"gradient_clipping": {"method": "by_name", "clips": {"*": "auto"}}}, c.by_name({"*": c.auto()})),
        ({"lr": "???", "clipnorm": 1.0, "seed": "${nope}"}, c.clip_by_norm(1)),  # nobody asks for these two
    ],
)
def test_what_they_mean(kind, data, clip):
    assert parse(kind(data)) == clip


@kinds
@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"clipnorm": "???"}, "clipnorm: is '???', which stands for a value that must be given"),
        ({"gradient_clipping": "???"}, "gradient_clipping: is '???'"),
        (
            {"gradient_clipping": {"method": "norm", "threshold": "???"}},
            "gradient_clipping.threshold: is '???'",
        ),
        ({"method": "???", "threshold": 1}, "method: is '???'"),
        ({"method": "chain", "clips": "???"}, "clips: is '???'"),
        ({"method": "chain", "clips": ["???", "auto"]}, "clips[0]: is '???'"),
        ({"training_parameters": "???"}, "training_parameters: is '???'"),
        ({"max_grad_norm": "${nope}"}, "max_grad_norm: cannot be read: Interpolation key 'nope' not found"),
        ({"method": "chain", "clips": []}, "clips: chain needs at least one clip"),
        ({"method": "by_name", "clips": ["auto"]}, "clips: must map patterns of parameter names to clips"),
        ({"method": "norm", "threshold": [1]}, "threshold: must be a number or a policy"),
    ],
)
def test_mistakes_begin_with_their_path_and_are_one_line(kind, data, message):
    with pytest.raises(ConfigError) as caught:
        parse(kind(data))
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["auto", b"auto", bytearray(b"auto"), memoryview(b"auto")])
def test_a_text_is_no_list_of_clips(text):
    with pytest.raises(ConfigError, match="clips: must be a list of clips"):
        parse({"method": "chain", "clips": text})


def test_a_missing_value_in_plain_data_is_named_as_such():
    with pytest.raises(ConfigError, match=r"^threshold: is '\?\?\?'"):
        parse({"method": "norm", "threshold": "???"})


class Broken(Mapping):
    def __iter__(self):
        raise OSError("the server is gone")

    __len__ = __getitem__ = __iter__


def test_a_mapping_that_raises_is_one_sentence():
    with pytest.raises(ConfigError, match=r"^gradient_clipping: cannot be read: the server is gone$"):
        parse({"gradient_clipping": Broken()})
