"""A lab configuration: its defaults, its files, and one clear line for each mistake."""

import json
import re
from pathlib import Path

import pytest

from clipwise import clip_by_global_norm, clip_by_norm
from clipwise.errors import ConfigError
from clipwise.lab.config.lab_config import LabConfig, load_config, parse_config

EXAMPLES = sorted((Path(__file__).parents[3] / "examples").glob("*.json"))
LANGUAGE = {"model_type": "GRU", "task": "Language_Modeling"}
CLASSES = {"model_type": "LSTM", "task": "Sequence_Classification"}
SERIES = {"model_type": "RNN", "task": "Time_Series_Forecasting"}


def test_three_keys_are_enough() -> None:
    config = parse_config(
        LANGUAGE
        | {
            "training_parameters": {
                "optimizer": "RMSprop",
                "gradient_clipping": {"method": "clip_by_global_norm", "threshold": 5.0},
            }
        }
    )
    training = config.training_parameters
    assert (training.learning_rate, training.loss, training.steps) == (0.01, "cross_entropy", 1500)
    assert config.data.source == "shakespeare"
    assert config.clip == clip_by_global_norm(5.0)


@pytest.mark.parametrize(("task", "loss"), [(CLASSES, "binary_cross_entropy"), (SERIES, "mse")])
def test_defaults_follow_the_task(task: dict[str, str], loss: str) -> None:
    config = parse_config(task)
    assert config.training_parameters.loss == loss
    assert config.clip is None


def test_names_are_taken_in_any_case() -> None:
    config = parse_config(
        {"model_type": "lstm", "task": "LANGUAGE_MODELING", "training_parameters": {"optimizer": "rmsprop"}}
    )
    assert (config.model_type, config.task) == ("LSTM", "Language_Modeling")
    assert config.training_parameters.optimizer == "RMSprop"


def test_precision_may_be_a_number() -> None:
    assert parse_config(LANGUAGE | {"precision": 16}).precision == "16"


MISTAKES = [
    ({"task": "Language_Modeling"}, "model_type: must be given, one of 'LSTM', 'GRU', 'RNN', 'Transformer'"),
    (LANGUAGE | {"sead": 1}, "sead: unknown key. Did you mean 'seed'?"),
    (
        LANGUAGE | {"model_type": "GRUU"},
        "model_type: must be one of 'LSTM', 'GRU', 'RNN' or 'Transformer', got 'GRUU'",
    ),
    (LANGUAGE | {"seed": True}, "seed: must be a whole number, got True"),
    (
        LANGUAGE | {"training_parameters": []},
        "training_parameters: must be a mapping of keys to values, got []",
    ),
    (
        LANGUAGE | {"training_parameters": {"batch_size": "big"}},
        "training_parameters.batch_size: must be a whole number, got 'big'",
    ),
    (
        LANGUAGE | {"training_parameters": {"batch_size": 0}},
        "training_parameters.batch_size: must be at least 1, got 0",
    ),
    (
        LANGUAGE | {"training_parameters": {"learning_rate": -1.0}},
        "training_parameters.learning_rate: must be above 0, got -1.0",
    ),
    (
        LANGUAGE | {"training_parameters": {"learning_rate": float("nan")}},
        "training_parameters.learning_rate: must be a finite number, got nan",
    ),
    (
        LANGUAGE | {"training_parameters": {"lerning_rate": 1.0}},
        "training_parameters.lerning_rate: unknown key. Did you mean 'learning_rate'?",
    ),
    (
        LANGUAGE | {"training_parameters": {"epochs": 1, "steps": 5}},
        "training_parameters.epochs and training_parameters.steps contradict each other",
    ),
    (
        LANGUAGE | {"training_parameters": {"loss": "mse"}},
        "training_parameters.loss: must be one of 'cross_entropy' for Language_Modeling, got 'mse'",
    ),
    (
        LANGUAGE | {"training_parameters": {"optimizer": "Adam", "momentum": 0.9}},
        "training_parameters.momentum: Adam has no momentum",
    ),
    (
        LANGUAGE | {"training_parameters": {"batch_size": 10, "accumulate": 4}},
        "training_parameters.batch_size: must be a multiple of accumulate * devices = 4, got 10",
    ),
    (
        LANGUAGE
        | {"training_parameters": {"gradient_clipping": {"method": "clip_by_norm", "threshold": -1}}},
        "training_parameters.gradient_clipping.threshold: must be at least 0, got -1",
    ),
    (
        LANGUAGE | {"training_parameters": {"gradient_clipping": {"method": "clip_by_norm", "treshold": 1}}},
        "training_parameters.gradient_clipping.treshold: unknown key",
    ),
    (LANGUAGE | {"model_parameters": {"heads": 2}}, "model_parameters.heads: only a Transformer has heads"),
    (
        LANGUAGE | {"model_type": "Transformer", "model_parameters": {"hidden_size": 10, "heads": 4}},
        "model_parameters.heads: must divide hidden_size=10, got 4",
    ),
    (LANGUAGE | {"data": {"source": "beijing_pm25"}}, "data.source: must be 'shakespeare' or 'chatterbot'"),
    (
        LANGUAGE | {"data": {"source": "shakespeare", "path": "a.txt"}},
        "data.source and data.path contradict each other",
    ),
    (LANGUAGE | {"data": {"target": "x"}}, "data.target: is not used by Language_Modeling"),
    (CLASSES | {"data": {"target": "x"}}, "data.target: needs data.path"),
    (CLASSES | {"data": {"path": "a.csv", "sequence_key": "k"}}, "data.time_column: must be given"),
    (SERIES | {"data": {"path": "a.csv"}}, "data.value_column: must be given"),
    (LANGUAGE | {"data": {"path": ""}}, "data.path: must be at least 1 character long, got ''"),
    (
        LANGUAGE | {"data": {"path": "~nosuchuser/x.txt"}},
        "data.path: must begin with a home folder that is known, got '~nosuchuser/x.txt'",
    ),
    (
        LANGUAGE | {"gradient_clipping": "auto", "training_parameters": {"gradient_clipping": "none"}},
        "gradient_clipping and training_parameters.gradient_clipping contradict each other",
    ),
    (
        LANGUAGE | {"max_grad_norm": 1.0},
        "max_grad_norm: unknown key, it belongs under training_parameters.gradient_clipping:"
        " {'max_grad_norm': ...}",
    ),
    (
        LANGUAGE | {"training_parameters": {"clip_norm": 1.0}},
        "training_parameters.clip_norm: unknown key, it belongs under training_parameters.gradient_clipping:"
        " {'clipnorm': ...}",
    ),
    (
        LANGUAGE | {"gradient_cliping": "auto"},
        "gradient_cliping: unknown key. Did you mean 'gradient_clipping'?",
    ),
    (
        LANGUAGE | {"gradient_clipping": {"method": "clip_by_norm", "treshold": 1}},
        "training_parameters.gradient_clipping.treshold: unknown key",
    ),
    (
        LANGUAGE | {"gradient_clipping": "auto", "training_parameters": []},
        "training_parameters: must be a mapping of keys to values, got []",
    ),
]


@pytest.mark.parametrize(("data", "message"), MISTAKES, ids=[message for _, message in MISTAKES])
def test_a_mistake_names_its_key_the_value_and_what_is_allowed(data: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(data)
    assert str(caught.value).startswith(message)


def test_every_mistake_gets_its_line() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(LANGUAGE | {"seed": "x", "data": {"max_rows": 0.5}})
    assert [line.split(":")[0] for line in str(caught.value).splitlines()] == ["data.max_rows", "seed"]


@pytest.mark.parametrize(
    ("suffix", "text"),
    [
        (".json", '{"model_type": "GRU", "task": "Language_Modeling", "data": {"path": "my.txt"}}'),
        (".yaml", "model_type: GRU\ntask: Language_Modeling\ndata: {path: my.txt}\n"),
    ],
)
def test_a_path_is_relative_to_the_configuration_file(tmp_path: Path, suffix: str, text: str) -> None:
    (tmp_path / f"c{suffix}").write_text(text)
    config = load_config(tmp_path / f"c{suffix}")
    assert config.data_path == tmp_path / "my.txt"
    assert config.override(seed=4).data_path == tmp_path / "my.txt"


@pytest.mark.parametrize(("name", "text", "message"), [
    ("c.json", None, "cannot be read"),
    ("c.json", "", "the file is empty"),
    ("c.json", '{"model_type": \n"GRU",,}', "line 2, column 7"),
    ("c.yaml", "a: [1\n", "line 2"),
    ("c.json", "[1]", "must hold a mapping"),
    ("c.json", '{"seed": 1, "seed": 2}', "'seed' is given twice"),
    ("c.toml", "a = 1", "must end in .json, .yaml, .yml, got '.toml'"),
])  # fmt: skip
def test_a_file_that_is_no_configuration(tmp_path: Path, name: str, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path / name)
    assert str(caught.value).startswith(str(tmp_path / name))
    assert message in str(caught.value)


def test_override_takes_the_place_of_epochs_and_checks_again() -> None:
    config = parse_config(LANGUAGE | {"training_parameters": {"epochs": 2, "optimizer": "SGD"}})
    other = config.override(steps=40, device="cpu", seed=None)
    assert (other.training_parameters.steps, other.training_parameters.epochs) == (40, None)
    assert (other.training_parameters.evaluate_every, other.training_parameters.optimizer) == (4, "SGD")
    assert (other.device, other.seed) == ("cpu", 0)
    with pytest.raises(ConfigError, match=r"training_parameters\.steps: must be at least 1, got 0"):
        config.override(steps=0)


@pytest.mark.parametrize("path", EXAMPLES, ids=[path.stem for path in EXAMPLES])
def test_the_examples_are_configurations_and_survive_being_written(path: Path) -> None:
    config = load_config(path)
    assert config.clip is not None
    again = parse_config(json.loads(json.dumps(config.to_dict())))
    assert again.to_dict() == config.to_dict()
    assert again.clip == config.clip


def test_a_clip_in_place_of_its_description_is_written_as_one() -> None:
    config = parse_config(LANGUAGE | {"training_parameters": {"gradient_clipping": clip_by_norm(2.0)}})
    assert isinstance(config, LabConfig)
    written = config.to_dict()["training_parameters"]["gradient_clipping"]
    assert written == {"method": "clip_by_norm", "threshold": 2.0}


def test_there_are_examples() -> None:
    assert {path.stem for path in EXAMPLES} >= {
        "chatbot-gru",
        "fraud-lstm",
        "pm25-lstm",
        "shakespeare-lstm-sgd",
    }


def test_clipping_at_the_top_is_the_sections() -> None:
    given = LANGUAGE | {"gradient_clipping": "clip_by_norm(2.0)", "training_parameters": {"steps": 9}}
    config = parse_config(given)
    assert (config.clip, config.training_parameters.steps) == (clip_by_norm(2.0), 9)
    assert config.override(steps=5).clip == clip_by_norm(2.0)
    assert "training_parameters" in given  # what was given is not touched
    assert given["training_parameters"] == {"steps": 9}


def test_the_classes_of_a_table_of_ones_own_decide_on_the_loss() -> None:
    columns = {"path": "a.csv", "sequence_key": "k", "time_column": "t", "target": "y"}
    assert parse_config(CLASSES | {"data": columns}).training_parameters.loss is None
    training = {"loss": "mse"}
    with pytest.raises(ConfigError, match=r"training_parameters\.loss: must be one of"):
        parse_config(CLASSES | {"data": columns, "training_parameters": training})


def test_the_configurations_of_the_page_are_ones():
    page = (Path(__file__).parents[3] / "docs" / "training.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```json\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == 4
    tasks = [parse_config(json.loads(block)).task for block in blocks]
    assert set(tasks) == {"Language_Modeling", "Sequence_Classification", "Time_Series_Forecasting"}
