"""Files: JSON and YAML, and every way in which one can be broken."""

import sys

import pytest

from clipwise import clip as c
from clipwise import thresholds as t
from clipwise.config import load
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
        ("a.json", "[" * 100_000, "nested too deeply"),
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
        ("a.yaml", "[" * 100_000, "nested too deeply"),
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


def test_yaml_without_pyyaml_says_what_to_install(write, monkeypatch):
    path = write("a.yaml", "clipnorm: 1.0")
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(ConfigError, match=r'pip install "clipwise\[yaml\]"'):
        load(path)
