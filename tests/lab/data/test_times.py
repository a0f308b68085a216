"""Times: the usual forms are read, and nothing is guessed."""

from datetime import UTC, datetime

import polars as pl
import pytest

from clipwise.errors import DataError
from clipwise.lab.data.times import times


@pytest.mark.parametrize("text", [
    "2011-12-09 12:50", "2011-12-09 12:50:00", "2011-12-09T12:50:00Z", "2011-12-09T12:50:00.000",
    "2011/12/09 12:50", "09.12.2011 12:50",
])  # fmt: skip
def test_the_usual_forms_of_a_time(text: str) -> None:
    expected = datetime(2011, 12, 9, 12, 50, tzinfo=UTC).timestamp()
    assert times(pl.DataFrame({"t": [text]}), "t", "t.csv").to_list() == [expected]


def test_dates_and_numbers_are_times_too() -> None:
    day = datetime(2011, 12, 9, tzinfo=UTC).timestamp()
    assert times(pl.DataFrame({"t": ["2011-12-09"]}), "t", "t.csv").to_list() == [day]
    assert times(pl.DataFrame({"t": [3, 1]}), "t", "t.csv").to_list() == [3.0, 1.0]


@pytest.mark.parametrize(("values", "message"), [
    (["2011-12-09", "soon"], "must be numbers or times such as 2011-12-09 12:50, got 'soon' in row 2 below"),
    (["soon", "9/30/2011", "9/31/2011"], "got 'soon' in row 1 below"),
    (["9/30/2011", None, "9/31/2011", "soon"], "got '9/31/2011' in row 3 below"),
    (["1", "2.5", "late"], "got 'late' in row 3 below"),
    ([1.0, None], "has rows without a time"),
    ([True, False], "must be numbers or times such as"),
])  # fmt: skip
def test_what_is_no_time(values: list[object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        times(pl.DataFrame({"t": values}), "t", "t.csv")


AMBIGUOUS = ["01/02/2011", "01/02/2011 10:00", "01/02/2011 10:00:30"]


@pytest.mark.parametrize("text", AMBIGUOUS)
def test_month_or_day_first_is_never_guessed(text: str) -> None:
    same = text.replace("01/02", "03/03")
    with pytest.raises(DataError) as caught:
        times(pl.DataFrame({"t": [same, text]}), "t", "t.csv")
    assert str(caught.value) == (
        f"t.csv: column 't' (data.time_column) may have the month or the day first, as {text!r} in row 2"
        " below the header; write dates as YYYY-MM-DD"
    )


@pytest.mark.parametrize("text", AMBIGUOUS)
@pytest.mark.parametrize(("other", "month"), [("01/13/2011", 1), ("13/01/2011", 2), (None, 3)])
def test_one_row_that_allows_one_order_alone_settles_it(text: str, other: str | None, month: int) -> None:
    # Without a telling row, a date that is the same either way is one as well.
    text = text if other else text.replace("01/02", "03/03")
    rest = text[len("01/02/2011") :]
    found = times(pl.DataFrame({"t": [text, (other or "03/03/2011") + rest]}), "t", "t.csv")
    moment = datetime.fromtimestamp(found[0], UTC)
    assert (moment.month, moment.day) == {1: (1, 2), 2: (2, 1), 3: (3, 3)}[month]


def test_a_known_format_settles_it_too() -> None:
    frame = pl.DataFrame({"t": ["1/2/2011 7:45"]})
    expected = datetime(2011, 1, 2, 7, 45, tzinfo=UTC).timestamp()
    assert times(frame, "t", "t.csv", form="%m/%d/%Y %H:%M").to_list() == [expected]
    with pytest.raises(DataError, match="got '1/2/2011 7:45' in row 1"):
        times(frame, "t", "t.csv", form="%Y-%m-%d")
