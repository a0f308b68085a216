"""Tables as labelled sequences: checked against loops, and for looking into the future."""

import itertools
import math
import random
import statistics
from pathlib import Path

import polars as pl
import pytest
import torch

from clipwise.errors import ConfigError, DataError
from clipwise.lab.config.lab_config import parse_config
from clipwise.lab.data import retail
from clipwise.lab.data.sequences import SequenceData, make_sequences
from clipwise.lab.tasks.classification import SequenceClassification
from clipwise.lab.tasks.load import load_task


def table(rows: int = 200, keys: int = 10, classes: int = 2, seed: int = 0) -> pl.DataFrame:
    rng = random.Random(seed)
    data = {
        "card": [f"c{rng.randrange(keys)}" for _ in range(rows)],
        "when": rng.sample(range(10 * rows), rows),
        "amount": [rng.gauss(50, 20) for _ in range(rows)],
        "shop": [rng.choice(["red", "green", "blue"]) for _ in range(rows)],
        "label": [rng.randrange(classes) for _ in range(rows)],
    }
    return pl.DataFrame(data)


def sequences(frame: pl.DataFrame, **options: object) -> SequenceData:
    keys = {"key": "card", "time": "when", "target": "label", "name": "t.csv"} | options
    return make_sequences(frame, **keys)  # type: ignore[arg-type]


def task_of(
    data: SequenceData, *, steps: int = 8, batch: int = 4, loss: str = "cross_entropy"
) -> SequenceClassification:
    training = {"batch_size": batch, "sequence_length": steps, "loss": loss}
    config = parse_config(
        {"model_type": "LSTM", "task": "Sequence_Classification", "training_parameters": training}
    )
    return SequenceClassification(config, data)


def test_each_row_sees_itself_and_the_rows_of_its_key_before_it() -> None:
    frame = table()
    data = sequences(frame, gaps=False)
    rows = frame.sort("card", "when").rows(named=True)
    cut = sorted(row["when"] for row in rows)[math.floor(0.8 * (len(rows) - 1))]
    amounts = [row["amount"] for row in rows if row["when"] <= cut]
    mean, deviation = statistics.fmean(amounts), statistics.pstdev(amounts)

    task = task_of(data, steps=5)
    ends = torch.arange(len(rows))
    batch = task._batch(ends)
    assert batch.lengths is not None
    for end, row in enumerate(rows):
        past = [r for r in rows if r["card"] == row["card"] and r["when"] <= row["when"]][-5:]
        length = int(batch.lengths[end])
        assert length == len(past)
        expected = [(r["amount"] - mean) / deviation for r in past]
        # float32 features of numbers near 1.
        assert batch.x[end, :length, 0].tolist() == pytest.approx(expected, abs=1e-5)
        assert int(batch.y[end]) == row["label"]


def test_the_latest_fifth_is_held_out() -> None:
    frame = table()
    data = sequences(frame)
    when = frame.sort("card", "when")["when"].to_numpy()
    assert len(data.held_out) == pytest.approx(0.2 * len(frame), abs=1)
    assert when[data.train.numpy()].max() < when[data.held_out.numpy()].min()


def test_nothing_of_the_training_part_depends_on_later_rows() -> None:
    frame = table().sort("when")
    late = frame["when"] > frame["when"].quantile(0.8)
    changed = frame.with_columns(
        pl.when(late).then(1e6).otherwise(pl.col("amount")).alias("amount"),
        pl.when(late).then(pl.lit("purple")).otherwise(pl.col("shop")).alias("shop"),
    )
    before, after = sequences(frame), sequences(changed)
    assert torch.equal(before.train, after.train)
    assert torch.equal(before.numeric[before.train], after.numeric[after.train])
    assert torch.equal(before.categories[before.train], after.categories[after.train])
    assert after.sizes == (4,)
    assert set(after.categories[after.held_out, 0].tolist()) == {0}  # a colour never seen in training


def test_the_target_is_no_feature() -> None:
    data = sequences(table())
    assert not any("label" in feature for feature in data.features)
    with pytest.raises(DataError, match="the model would see the answer"):
        sequences(table(), features=["amount", "label"])


def test_a_label_of_the_whole_sequence_makes_one_example_of_it() -> None:
    frame = table(rows=400, keys=60).with_columns(
        (pl.col("card").str.slice(1).cast(pl.Int64) % 2).alias("label")
    )
    data = sequences(frame)
    assert len(data.train) + len(data.held_out) == frame["card"].n_unique()
    rows = frame.sort("card", "when")
    train, held_out = rows[data.train.numpy()], rows[data.held_out.numpy()]
    assert not set(train["card"]) & set(held_out["card"])
    ends = rows.group_by("card").agg(pl.col("when").max())
    assert set(train["when"]) | set(held_out["when"]) == set(ends["when"])


def test_the_time_since_the_row_before_is_a_feature() -> None:
    data = sequences(table(), features=["shop"])
    assert data.features == ("log time since the card's row before", "shop")
    rows = table().sort("card", "when").rows(named=True)
    gaps = [
        math.log1p(b["when"] - a["when"]) if a["card"] == b["card"] else 0.0
        for a, b in itertools.pairwise(rows)
    ]
    found = data.numeric[1:, 0].double()
    # A straight line from the gaps to the feature: standardised, and nothing else.
    both = torch.stack([torch.tensor(gaps, dtype=torch.float64), found])
    assert float(torch.corrcoef(both)[0, 1]) == pytest.approx(1.0, abs=1e-6)


def test_missing_numbers_are_the_mean_and_marked() -> None:
    frame = table().with_columns(
        pl.when(pl.int_range(pl.len()) % 7 == 0).then(None).otherwise(pl.col("amount")).alias("amount")
    )
    data = sequences(frame, gaps=False)
    missing = frame.sort("card", "when")["amount"].is_null().to_numpy()
    assert data.features[:2] == ("amount", "amount is missing")
    assert set(data.numeric[missing, 0].tolist()) == {0.0}
    assert data.numeric[missing, 1].min() > data.numeric[~missing, 1].max()
    assert f"{missing.sum()} missing numbers" in data.summary


@pytest.mark.parametrize(("change", "message"), [
    ({"target": "lable"}, r"no column 'lable' \(data.target\). Did you mean 'label'\?"),
    ({"key": "crad"}, r"no column 'crad' \(data.sequence_key\). Did you mean 'card'\?"),
    ({"features": ["amonut"]}, r"no column 'amonut' \(data.features\). Did you mean 'amount'\?"),
    ({"time": "shop"}, r"column 'shop' \(data.time_column\) must be numbers or times"),
    ({"target": "amount"}, r"must hold classes, at most 100; it holds 200 different values"),
])  # fmt: skip
def test_columns_that_do_not_fit(change: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        sequences(table(), **change)


def test_a_target_with_one_class() -> None:
    with pytest.raises(DataError, match=r"column 'label' \(data.target\) holds one class only: \[1\]"):
        sequences(table().with_columns(pl.lit(1).alias("label")))


def test_a_part_with_one_class() -> None:
    frame = table().with_columns((pl.col("when") > 1900).cast(pl.Int64).alias("label"))
    with pytest.raises(DataError, match="the training part, holds '0' alone of 2 classes"):
        sequences(frame)


def test_a_loss_that_does_not_fit_the_target() -> None:
    data = sequences(table(classes=3))
    with pytest.raises(ConfigError, match="binary_cross_entropy needs two classes, the target has 3"):
        task_of(data, loss="binary_cross_entropy")
    task = task_of(data)
    assert (task.metric, task.spec.outputs) == ("f1", 3)


def test_too_few_rows_for_a_batch() -> None:
    with pytest.raises(DataError, match="fewer than batch_size 4000"):
        task_of(sequences(table()), batch=4000)


def test_an_epoch_sees_every_example_once() -> None:
    task = task_of(sequences(table()), batch=8)
    ends = [batch.y for batch in itertools.islice(task.batches(3), task.steps_per_epoch)]
    assert sum(map(len, ends)) == len(task.data.train) // 8 * 8
    again = [batch.y for batch in itertools.islice(task.batches(3), task.steps_per_epoch)]
    assert all(torch.equal(a, b) for a, b in zip(ends, again, strict=True))


def test_one_output_and_two_mean_the_same() -> None:
    data = sequences(table())
    one, two = task_of(data, loss="binary_cross_entropy"), task_of(data)

    class Linear(torch.nn.Module):
        def __init__(self, outputs: int) -> None:
            super().__init__()
            self.outputs = outputs

        def forward(self, x: torch.Tensor, state: None, **rest: object) -> tuple[torch.Tensor, None]:
            z = x[:, :1, 0]
            return (z if self.outputs == 1 else torch.cat([torch.zeros_like(z), z], dim=1)), None

    cpu = torch.device("cpu")
    figures = one.evaluate(Linear(1), cpu, torch.enable_grad)
    assert figures == pytest.approx(two.evaluate(Linear(2), cpu, torch.enable_grad))
    batch = one._batch(data.train[:20])
    assert one.loss(Linear(1)(batch.x, None)[0], batch.y).item() == pytest.approx(
        two.loss(Linear(2)(batch.x, None)[0], batch.y).item(), rel=1e-6
    )


def test_a_csv_of_the_users_own(tmp_path: Path) -> None:
    table().write_csv(tmp_path / "cards.csv")
    columns = {"sequence_key": "card", "time_column": "when", "target": "label"}
    config = parse_config(
        {"model_type": "GRU", "task": "Sequence_Classification", "data": {"path": "cards.csv"} | columns},
        folder=tmp_path,
    )
    task = load_task(config)
    assert task.metric == "auc"
    assert task.summary.startswith("cards.csv: 200 examples (one a row) from 10 sequences")


def test_online_retail_tells_nothing_of_the_invoice_itself() -> None:
    frame = retail.invoices()
    assert frame.shape == (38_934, 12)
    assert frame[retail.TARGET].mean() == pytest.approx(0.19, abs=0.02)
    # Each row repeats what the customer's invoice before it was: its own outcome is the next row's past.
    within = frame.with_columns(pl.col("was_cancelled").shift(-1).over(retail.KEY).alias("next")).drop_nulls(
        "next"
    )
    assert (within["next"] == within[retail.TARGET]).all()
    # No single feature gives the answer away, as the sign of the invoice's own amount would.
    for feature in ("amount", "items", "lines", "days_since"):
        split = frame.group_by(pl.col(feature) > frame[feature].median()).agg(pl.col(retail.TARGET).mean())
        assert split[retail.TARGET].max() < 0.4


def test_a_row_of_invoices_is_made_of_the_one_before(tmp_path: Path) -> None:
    lines = """Invoice,StockCode,Description,Quantity,InvoiceDate,Price,Customer ID,Country
1,a,A,2,12/1/2009 7:45,5.0,7.0,France
1,b,B,1,12/1/2009 7:45,1.5,7.0,France
C2,a,A,-2,12/3/2009 19:45,5.0,7.0,France
3,b,B,4,12/4/2009 9:00,1.5,7.0,France
4,b,B,4,12/4/2009 9:00,1.5,,France
5,b,B,4,12/4/2009 9:00,1.5,8.0,Spain
"""
    (tmp_path / "lines.csv").write_text(lines)
    second, third = retail.prepare(tmp_path / "lines.csv").rows(named=True)  # customer 8 bought once
    assert (second[retail.KEY], second["country"], second[retail.TARGET]) == (7, "France", True)
    assert second["amount"] == pytest.approx(math.log1p(11.5))
    assert second["items"] == pytest.approx(math.log1p(3))
    assert second["lines"] == pytest.approx(math.log1p(2))
    assert (second["hour"], second["weekday"], second["was_cancelled"]) == (7, "2", False)
    assert (second["days_since"], second["invoices_before"]) == (0.0, 0.0)
    assert third[retail.TARGET] is False
    assert third["amount"] == pytest.approx(-math.log1p(10))
    assert third["was_cancelled"] is True
    assert third["days_since"] == pytest.approx(math.log1p(2.5))
    assert third["invoices_before"] == pytest.approx(math.log1p(1))


def test_the_first_invoices_of_a_customer_by_hand() -> None:
    frame = retail.invoices().filter(pl.col(retail.KEY) == 12346).sort(retail.TIME)
    # Invoices of customer 12346 in the source: 45.00 for 10 items on 14 December 2009 at 8:34, then
    # 22.50 for 5 items at 11:00.
    first, second = frame.rows(named=True)[:2]
    assert first["amount"] == pytest.approx(math.log1p(45.0))
    assert first["items"] == pytest.approx(math.log1p(10))
    assert (first["hour"], first["was_cancelled"]) == (8, False)
    assert second["amount"] == pytest.approx(math.log1p(22.5))
    assert second["days_since"] == pytest.approx(math.log1p((2 * 60 + 26) / (24 * 60)))


def test_a_damaged_table_in_the_cache_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLIPWISE_CACHE", str(tmp_path))
    lines = "Invoice,StockCode,Quantity,InvoiceDate,Price,Customer ID,Country\n"
    lines += "1,a,2,12/1/2009 7:45,5.0,7.0,France\n2,a,1,12/3/2009 9:00,5.0,7.0,France\n"
    (tmp_path / "lines.csv").write_text(lines)
    monkeypatch.setattr(retail.archives, "members", lambda *_: [tmp_path / "lines.csv"])
    expected = retail.invoices()
    (cached,) = (tmp_path / "prepared").iterdir()
    whole = cached.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"PAR1" + bytes(100) + b"PAR1"):
        cached.write_bytes(damaged)
        assert retail.invoices().equals(expected)
        assert cached.read_bytes() == whole


@pytest.mark.parametrize(("classes", "outputs"), [(2, 1), (3, 3)])
def test_a_loss_that_was_left_out_follows_the_classes(tmp_path: Path, classes: int, outputs: int) -> None:
    table(classes=classes).write_csv(tmp_path / "t.csv")
    data = {"path": "t.csv", "sequence_key": "card", "time_column": "when", "target": "label"}
    given = {"model_type": "GRU", "task": "Sequence_Classification", "data": data}
    task = load_task(parse_config(given, folder=tmp_path))
    assert task.spec.outputs == outputs  # one logit for binary cross-entropy
    training = {"loss": "binary_cross_entropy"}
    if classes == 3:
        with pytest.raises(ConfigError, match="binary_cross_entropy needs two classes, the target has 3"):
            load_task(parse_config(given | {"training_parameters": training}, folder=tmp_path))
