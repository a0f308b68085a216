"""Files: JSON and YAML, and every way in which one can be broken."""

import json
import os
import sys

import pytest

from clipwise import clip as c
from clipwise import thresholds as t
from clipwise.config import load
from clipwise.config.files import read_mapping
from clipwise.errors import ConfigError


@pytest.fixture
def write(tmp_path):
    def write(name, content):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


@pytest.mark.parametrize(
    ("name", "content", "clip"),
    [
        ("a.json", '{"gradient_clipping": {"method": "clip_by_norm", "threshold": 1.0}}', c.clip_by_norm(1)),
        ("a.json", '"auto"', c.auto()),
        ("a.json", '{"max_grad_norm": Infinity}', c.clip_by_global_norm(float("inf"))),
        ("a.JSON", b'\xef\xbb\xbf{"max_grad_norm": 1.0}', c.clip_by_global_norm(1)),
        ("a.json", '{"method": "none"}', None),
        ("a.yaml", "gradient_clipping:\n  method: clip_by_norm\n  threshold: 1e-3\n", c.clip_by_norm(0.001)),
        ("a.yml", "gradient_clipping: clip_by_norm(percentile(10))", c.clip_by_norm(t.percentile(10))),
        (
            "a.yaml",
            "method: clip_by_norm\nthreshold: .inf\nnorm: inf\n",
            c.clip_by_norm(float("inf"), float("inf")),
        ),
        ("a.yaml", "autoclip(10)", c.autoclip()),
        ("a.yaml", "none", None),
        (
            "a.yaml",
            "base: &base {method: clip_by_norm, threshold: 1, norm: 1}\n"
            "gradient_clipping:\n  <<: *base\n  threshold: 2.5E+1\n",
            c.clip_by_norm(25, 1),
        ),
    ],
)
def test_what_a_file_means(write, name, content, clip):
    assert load(write(name, content)) == clip
    assert load(str(write(name, content))) == clip


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.toml", "", "must end in .json, .yaml, .yml, got '.toml'"),
        ("a", "", "must end in .json, .yaml, .yml, got ''"),
        ("a.json", "", "the file is empty"),
        ("a.yaml", "  \n# nothing\n", "the file is empty"),
        ("a.json", "null", "the file is empty"),
        ("a.json", '{\n  "clipnorm" 1.0\n}', "line 2, column 14: "),  # every Python points there
        ("a.json", '{"clipnorm": 1.0, "clipnorm": 2.0}', "the key 'clipnorm' is given twice"),
        ("a.json", "[" * 100_000, "nested deeper than 64 levels"),
        ("a.json", '{"clipnorm": 1, "a": ' + "[" * 65 + "]" * 65 + "}", "nested deeper than 64 levels"),
        ("a.json", f"[{'1,' * 20_000}1]", "holds more than 10,000 values"),
        ("a.json", " " * 2**20 + "1", "is larger than 1 MiB"),
        ("a.json", '{"clipnorm": ' + "9" * 5000 + "}", "4300"),
        ("a.json", b"\xff\xfe{}", "is not UTF-8 text (byte 0)"),
        ("a.json", '{"clipnorm": NaN}', "clipnorm: must be a number, got NaN"),
        (
            "a.json",
            '{"gradient_clipping": {"method": "norm", "threshold": -1}}',
            "a.json: gradient_clipping.threshold: must be",
        ),
        ("a.yaml", "clipnorm: [1", "line 1, column 13: "),
        ("a.yaml", "clipnorm: 1\n\tclipvalue: 2", "line 2, column 1: "),
        ("a.yaml", "a: 1\nclipnorm: 1\nclipnorm: 2\n", "line 3, column 1: the key 'clipnorm' is given twice"),
        ("a.yaml", "a: {b: 1, b: 2}\nclipnorm: 1", "line 1, column 11: the key 'b' is given twice"),
        ("a.yaml", "clipnorm: 1\n---\nclipnorm: 2\n", "line 2, column 1: "),
        ("a.yaml", "? [a]\n: 1\n", "unhashable"),
        ("a.yaml", "clipnorm: !!python/object/apply:os.getcwd []", "could not determine a constructor"),
        ("a.yaml", "clipnorm: !!int x", "malformed YAML"),
        ("a.yaml", "clipnorm: !!bool x", "malformed YAML"),
        ("a.yaml", "clipnorm: !!timestamp x", "malformed YAML"),
        ("a.yaml", "x: \0", "malformed YAML"),
        ("a.yaml", "[" * 100_000, "nested deeper than 64 levels"),
        ("a.yaml", "a: " + "[" * 65 + "]" * 65, "nested deeper than 64 levels"),
        ("a.yaml", "x: &x [" + "1, " * 200 + "]\ny: [" + "*x, " * 50 + "]", "more than 10,000 values"),
        ("a.yaml", "clipnorm: 1" + ":10" * 1000, "column 11: a number of 3,001 characters"),
        ("a.yaml", "clipnorm: 1" + ":10" * 300 + ".5", "malformed YAML"),
        ("a.yaml", "&a {<<: *a, clipnorm: 1}", "nested deeper than 64 levels"),
        ("a.yaml", "&a {method: chain, clips: [*a, *a]}", "nested deeper than 64 levels"),
        ("a.yaml", "gradient_clipping: no", "gradient_clipping: expected a clip"),
    ],
)
def test_mistakes_begin_with_the_file(write, name, content, message):
    path = write(name, content)
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)


def test_a_file_that_is_not_there_or_is_a_folder(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.json: cannot be read: No such file"):
        load(tmp_path / "none.json")
    (tmp_path / "folder.yaml").mkdir()
    with pytest.raises(ConfigError, match=r"folder\.yaml: cannot be read"):
        load(tmp_path / "folder.yaml")


def bomb(first, each):
    """A YAML text of some 500 bytes in which nine aliases a line lead to nine aliases of the line before."""
    lines = [f"a{i}: &a{i} " + each.format(", ".join([f"*a{i - 1}"] * 9)) for i in range(1, 9)]
    return "\n".join([f"a0: &a0 {first}", *lines, "gradient_clipping: *a8"])


@pytest.mark.parametrize("read", [load, read_mapping])
@pytest.mark.parametrize(
    "text",
    [
        bomb("{method: auto}", "{{method: chain, clips: [{}]}}"),
        bomb("{method: auto}", "{{<<: [{}]}}"),
        bomb("auto", "[{}]"),
    ],
)
def test_aliases_are_counted_before_they_are_written_out(write, read, text):
    path = write("a.yaml", text)
    with pytest.raises(
        ConfigError, match=r"line \d, column \d+: holds more than 10,000 values, each counted"
    ):
        read(path)


def test_as_many_values_as_are_allowed(write):
    clips = {f"layer{i}": "auto" for i in range(9_990)}
    text = json.dumps({"method": "by_name", "clips": clips})
    expected = c.by_name({pattern: c.auto() for pattern in clips})
    assert load(write("a.json", text)) == expected


@pytest.mark.skipif(os.name != "posix", reason="links and devices of POSIX")
def test_what_is_no_file_of_text(tmp_path):
    path = tmp_path / "a.yaml"
    path.symlink_to(path)
    with pytest.raises(ConfigError, match=r"a\.yaml: cannot be read: Too many levels of symbolic links"):
        load(path)
    path.unlink()
    path.symlink_to("/dev/zero")
    with pytest.raises(ConfigError, match=r"a\.yaml: cannot be read: it is a device; give a file"):
        load(path)
    with pytest.raises(ConfigError, match=r"cannot be read: .*embedded null"):
        load("a\0.yaml")


def test_yaml_without_pyyaml_says_what_to_install(write, monkeypatch):
    path = write("a.yaml", "clipnorm: 1.0")
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(ConfigError, match=r'pip install "clipwise\[yaml\]"'):
        load(path)
