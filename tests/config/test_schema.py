"""The JSON Schema: valid itself, up to date, and of the same opinion as the parser."""

import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given

from clipwise.config import parse, schema, to_dict, to_string
from clipwise.errors import ConfigError
from tests.config.cases import STRINGS
from tests.config.test_round_trip import CLIPS, QUICK
from tests.config.test_settings import DEEPSPEED, KERAS

FILE = Path(__file__).parents[2] / "docs" / "clipwise.schema.json"
VALIDATOR = jsonschema.Draft202012Validator(schema())


def test_it_is_a_schema():
    jsonschema.Draft202012Validator.check_schema(schema())


def test_the_published_file_is_up_to_date():
    made = subprocess.run(
        [sys.executable, "-m", "clipwise.config"], capture_output=True, text=True, check=True
    )
    assert json.loads(made.stdout) == schema()
    assert FILE.read_text(encoding="utf-8") == made.stdout, (
        "run: python -m clipwise.config > docs/clipwise.schema.json"
    )


@pytest.mark.parametrize("clip", [clip for _, clip in STRINGS])
def test_canonical_forms_validate(clip):
    VALIDATOR.validate(to_dict(clip))
    VALIDATOR.validate(to_string(clip))
    VALIDATOR.validate({"gradient_clipping": to_dict(clip)})
    VALIDATOR.validate({"training_parameters": {"gradient_clipping": to_string(clip), "epochs": 3}})


@QUICK
@given(CLIPS)
def test_every_clip_validates(clip):
    VALIDATOR.validate(to_dict(clip))
    VALIDATOR.validate(to_string(clip))


@pytest.mark.parametrize(
    "data",
    [
        KERAS,
        DEEPSPEED,
        {"max_grad_norm": 0},
        {"gradient_clip_val": None, "gradient_clip_algorithm": "value"},
        {"method": "clip", "per": "element", "threshold": [-1, "inf"]},
        {"method": "agc"},
        {"method": "none"},
        {"method": "clip_by_norm", "threshold": "percentile(10)"},
        {"method": "by_name", "clips": {"*": None}},
        {"training_parameters": {"optimizer": "Adam"}, "clipnorm": 1.0},
    ],
)
def test_other_good_data_validates(data):
    parse(data)
    VALIDATOR.validate(data)


@pytest.mark.parametrize(
    "data",
    [
        1.0,
        True,
        [],
        {},
        "",
        "clip_by_nrom(1)",
        "percentile(10)",
        {"threshold": 1},
        {"method": "clip_by_nrom", "threshold": 1},
        {"method": "clip_by_norm"},
        {"method": "clip_by_norm", "treshold": 1},
        {"method": "clip_by_norm", "threshold": 1, "extra": 1},
        {"method": "clip_by_norm", "threshold": -1},
        {"method": "clip_by_norm", "threshold": "1.0"},
        {"method": "clip_by_norm", "threshold": None},
        {"method": "clip_by_norm", "threshold": {"q": 10}},
        {"method": "clip_by_norm", "threshold": {"policy": "percentil"}},
        {"method": "clip_by_norm", "threshold": {"policy": "percentile", "p": 10}},
        {"method": "clip_by_norm", "threshold": {"policy": "schedule", "function": "f"}},
        {"method": "clip_by_norm", "threshold": {"policy": "linear", "start": 1, "stop": 2}},
        {"method": "clip_by_norm", "threshold": 1, "norm": "l2"},
        {"method": "clip", "threshold": 1, "per": "layer"},
        {"method": "clip", "threshold": [1, 2, 3], "per": "element"},
        {"method": "clip_by_value"},
        {"method": "autoclip", "window": 1.5},
        {"method": "none", "threshold": 1},
        {"method": "chain", "clips": []},
        {"method": "chain", "clips": [None]},
        {"method": "chain", "clips": "auto"},
        {"method": "by_name", "clips": {}},
        {"method": "by_name", "clips": {"*": 1}},
        {"gradient_clipping": -1},
        {"gradient_clipping": True},
        {"gradient_clipping": {"threshold": 1}},
        {"gradient_clipping": "auto", "threshold": 1},
        {"training_parameters": 1},
        {"training_parameters": {"gradient_clipping": {"threshold": 1}}},
        {"max_grad_norm": -1},
        {"max_grad_norm": "1"},
        {"gradient_clip_algorithm": "norm"},
        {"gradient_clip_val": 1, "gradient_clip_algorithm": "l2"},
    ],
)
def test_bad_data_does_not_validate(data):
    with pytest.raises(ConfigError):
        parse(data)
    assert not VALIDATOR.is_valid(data)


def test_every_method_is_described():
    for name, definition in schema()["$defs"].items():
        if name != "settings.keys":
            assert definition["description"].endswith((".", ")")), name
