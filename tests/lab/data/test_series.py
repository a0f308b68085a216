"""A column as a series: in order, gaps closed from the past, and forecast only where it was measured."""

import itertools
import math
from pathlib import Path

import polars as pl
import pytest
import torch

from clipwise.errors import DataError
from clipwise.lab.config.lab_config import parse_config
from clipwise.lab.data.series import TimeSeries, make_series
from clipwise.lab.tasks.forecasting import TimeSeriesForecasting
from clipwise.lab.tasks.load import load_task

VALUES = [math.sin(i / 3) + i % 5 for i in range(100)]


def task_of(
    series: TimeSeries, *, steps: int = 4, batch: int = 8, loss: str = "mse"
) -> TimeSeriesForecasting:
    training = {"batch_size": batch, "sequence_length": steps, "loss": loss}
    config = parse_config(
        {"model_type": "LSTM", "task": "Time_Series_Forecasting", "training_parameters": training}
    )
    return TimeSeriesForecasting(config, series)


def test_it_is_put_in_order_and_standardised_by_the_training_part() -> None:
    frame = pl.DataFrame({"t": list(range(100)), "v": VALUES}).sample(fraction=1.0, shuffle=True, seed=1)
    series = make_series(frame, value="v", time="t", name="s")
    past = torch.tensor(VALUES[:80], dtype=torch.float64)
    expected = (torch.tensor(VALUES, dtype=torch.float64) - past.mean()) / past.std(correction=0)
    # float32 values near 1.
    assert series.features[:, 0].tolist() == pytest.approx(expected.tolist(), abs=1e-6)
    assert (series.cut, series.mean) == (80, pytest.approx(past.mean().item()))


def test_gaps_are_closed_from_the_past_and_never_forecast() -> None:
    values = [None, None, *VALUES]
    values[10] = values[11] = values[95] = None
    series = make_series(pl.DataFrame({"v": values}), value="v", name="s")
    assert len(series.features) == 100  # the two rows before the first value are left out
    assert series.features[8, 0] == series.features[7, 0] == series.features[9, 0]
    assert series.observed.logical_not().nonzero()[:, 0].tolist() == [8, 9, 93]
    assert "3 missing ones carried forward" in series.summary
    task = task_of(series)
    forecast = set(task.train.tolist()) | set(task.evaluated.tolist())
    assert not forecast & {8, 9, 93}
    assert forecast == set(range(4, 100)) - {8, 9, 93}


def test_a_window_is_the_values_before_its_target() -> None:
    series = make_series(pl.DataFrame({"v": VALUES}), value="v", name="s")
    task = task_of(series)
    batch = task._batch(torch.tensor([4, 50]))
    values = series.features[:, 0]
    assert torch.equal(batch.x[:, :, 0], torch.stack([values[0:4], values[46:50]]))
    assert torch.equal(batch.y, torch.stack([values[4], values[50]]))
    seen = torch.cat([b.y for b in itertools.islice(task.batches(0), task.steps_per_epoch)])
    assert set(seen.tolist()) <= set(values[:80].tolist())


def test_further_features_come_second() -> None:
    frame = pl.DataFrame({"v": VALUES, "w": [None, *range(99)]})
    series = make_series(frame, value="v", features=["w"], name="s")
    assert series.features.shape == (100, 2)
    assert series.features[0, 1] == series.features[1, 1]
    assert task_of(series).spec.numeric == 2


@pytest.mark.parametrize(("frame", "options", "message"), [
    ({"v": VALUES}, {"value": "w"}, r"no column 'w' \(data.value_column\)"),
    ({"v": VALUES}, {"time": "when"}, r"no column 'when' \(data.time_column\)"),
    ({"v": ["a"] * 9}, {}, r"column 'v' \(data.value_column\) must be numbers, it holds 'a'"),
    ({"v": [None, None]}, {}, "column 'v'"),
    ({"v": [1.0] * 50}, {}, "never changes"),
    ({"v": VALUES, "w": [math.nan] * 100}, {"features": ["w"]}, r"'w' \(data.features\) holds no number"),
])  # fmt: skip
def test_what_is_no_series(frame: dict[str, list[object]], options: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        make_series(pl.DataFrame(frame), **{"value": "v", "name": "s"} | options)  # type: ignore[arg-type]


def test_too_few_values() -> None:
    with pytest.raises(DataError, match="s: 100 values are too few; with sequence_length 70 they make 10"):
        task_of(make_series(pl.DataFrame({"v": VALUES}), value="v", name="s"), steps=70, batch=32)


@pytest.mark.parametrize(("loss", "expected"), [("mse", 2.5), ("mae", 1.5), ("huber", 1.0)])
def test_the_losses(loss: str, expected: float) -> None:
    task = task_of(make_series(pl.DataFrame({"v": VALUES}), value="v", name="s"), loss=loss)
    # Errors of 1 and 2; Huber's loss is e^2/2 up to 1 and |e| - 1/2 beyond.
    assert task.loss(torch.tensor([[1.0], [2.0]]), torch.zeros(2)).item() == pytest.approx(expected)


def test_the_last_value_as_a_forecast_by_hand() -> None:
    series = make_series(pl.DataFrame({"v": VALUES}), value="v", name="s")

    class Last(torch.nn.Module):
        def forward(self, x: torch.Tensor, state: None, **rest: object) -> tuple[torch.Tensor, None]:
            return x[:, -1], None

    figures = task_of(series).evaluate(Last(), torch.device("cpu"), torch.enable_grad)
    errors = [VALUES[i] - VALUES[i - 1] for i in range(80, 100)]
    rmse = math.sqrt(sum(e * e for e in errors) / 20)
    # float32 series.
    assert figures["rmse_original"] == pytest.approx(rmse, rel=1e-5)
    assert figures["rmse"] == pytest.approx(rmse / series.deviation, rel=1e-5)
    assert figures["mae_original"] == pytest.approx(sum(map(abs, errors)) / 20, rel=1e-5)
    assert figures["loss"] == pytest.approx(figures["rmse"] ** 2, rel=1e-5)


def test_a_csv_of_the_users_own_that_changes(tmp_path: Path) -> None:
    path = tmp_path / "s.csv"
    data = {"path": "s.csv", "value_column": "v"}
    training = {"batch_size": 8, "sequence_length": 4}
    config = parse_config(
        {
            "model_type": "GRU",
            "task": "Time_Series_Forecasting",
            "data": data,
            "training_parameters": training,
        },
        folder=tmp_path,
    )
    pl.DataFrame({"v": VALUES}).write_csv(path)
    assert load_task(config).summary == "s.csv: 100 values of 'v', the last 20 held out"
    pl.DataFrame({"v": VALUES + VALUES}).write_csv(path)
    assert load_task(config).summary == "s.csv: 200 values of 'v', the last 40 held out"


def test_beijing() -> None:
    task = load_task(parse_config({"model_type": "LSTM", "task": "Time_Series_Forecasting"}))
    assert task.summary == (
        "Beijing PM2.5: 43,800 values of 'pm2.5', the last 8,760 held out; 2,043 missing ones carried forward"
        " from the value before and never forecast"
    )


def test_a_row_in_a_message_is_the_row_of_the_file() -> None:
    frame = pl.DataFrame({"t": [3, 2, 1, 0], "v": ["1", "x", "2", "3"]})
    with pytest.raises(DataError, match="it holds 'x' in row 2 below the header"):
        make_series(frame, value="v", time="t", name="t.csv")
