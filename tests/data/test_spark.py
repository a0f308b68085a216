"""The same on a real PySpark session, where Java is present."""

import math
import shutil
import warnings

import numpy as np
import pytest

from clipwise.data import Clipper, clip, learn, report
from clipwise.errors import ArgumentError
from tests.depth import thorough

if shutil.which("java") is None:
    pytest.skip("PySpark needs Java, and there is no java on the path", allow_module_level=True)
sql = pytest.importorskip("pyspark.sql", reason="PySpark is not installed")

pytestmark = [thorough, pytest.mark.filterwarnings("ignore::FutureWarning")]  # PySpark's word on pandas 3

NAN, INF = math.nan, math.inf
ROWS = [
    (-5.0, -5, "a"),
    (1.0, 1, "b"),
    (NAN, 2, "c"),
    (None, None, "d"),
    (7.0, 7, "e"),
    (INF, 100, "f"),
    (-INF, -100, "g"),
]


@pytest.fixture(scope="module")
def spark():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        session = (
            sql.SparkSession.builder.master("local[1]")
            .config("spark.ui.enabled", "false")
            .config("spark.sql.shuffle.partitions", "1")
            .config("spark.sql.codegen.wholeStage", "false")  # compiling takes longer than the work here
            .config("spark.driver.bindAddress", "127.0.0.1")
            .config("spark.driver.host", "127.0.0.1")
            .getOrCreate()
        )
    session.sparkContext.setLogLevel("ERROR")
    yield session
    session.stop()


@pytest.fixture(scope="module")
def frame(spark):
    return spark.createDataFrame(ROWS, "f double, i bigint, s string")


def test_spark_clips_and_keeps_types_nan_and_nulls(frame):
    out = clip(
        frame.withColumn("single", frame.f.cast("float")),
        {"f": (-1.5, 4.5), "i": (-2.5, 4.5), "single": (None, 2)},
    )
    assert type(out) is type(frame)
    assert out.dtypes == [("f", "double"), ("i", "bigint"), ("s", "string"), ("single", "float")]
    rows = out.collect()
    assert [repr(row.f) for row in rows] == ["-1.5", "1.0", "nan", "None", "4.5", "4.5", "-1.5"]
    assert [row.i for row in rows] == [-2, 1, 2, None, 4, 4, -2]
    assert [repr(row.single) for row in rows] == ["-5.0", "1.0", "nan", "None", "2.0", "2.0", "-inf"]
    assert [row.s for row in rows] == list("abcdefg")


def test_spark_stays_lazy(frame):
    broken = frame.selectExpr("f", "if(i > 5, raise_error('this was computed'), i) as i")
    out = clip(broken, {"i": (0, 1)})
    with pytest.raises(Exception, match="this was computed"):
        out.collect()


@pytest.mark.parametrize("method", ["quantiles", "mad"])
def test_spark_learns_what_the_transformer_does(spark, method):
    x = np.exp(np.random.default_rng(0).normal(size=(100, 1)) * 2)
    x[3, 0], x[4, 0] = NAN, INF
    found = learn(spark.createDataFrame([(float(v),) for v in x[:, 0]], "x double"), method)
    expected = Clipper(method).fit(x)
    assert found["x"] == pytest.approx((expected.lower_[0], expected.upper_[0]), rel=1e-9)


def test_spark_counts_and_names(frame):
    one = report(frame, {"f": (-1.5, 4.5)})["f"]
    assert (one.count, one.missing, one.below, one.above) == (5, 2, 2, 2)
    assert (one.smallest, one.largest) == (-5.0, 7.0)
    with pytest.raises(ArgumentError, match="column 's' must be floats or whole numbers"):
        clip(frame, {"s": (0, 1)})
    with pytest.raises(ArgumentError, match="column 'f' is empty"):
        learn(frame.where("s = 'c'"), columns=["f"])
