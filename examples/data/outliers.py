"""Outliers in data, clipped column by column: in a scikit-learn pipeline and in a file.

The measurements are scikit-learn's breast cancer data, in which some values of the training part are a
thousand times too large, as by a wrong unit. Bounds are learnt on the training part alone.

    python examples/data/outliers.py
"""

import tempfile
from pathlib import Path

import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from clipwise.data import Clipper, clip_file

x, y = load_breast_cancer(return_X_y=True)
x_train, x_test, y_train, y_test = train_test_split(x, y, test_size=0.3, random_state=0, stratify=y)
rng = np.random.default_rng(0)
wrong = rng.random(x_train.shape) < 0.005
x_train = np.where(wrong, 1000 * x_train, x_train)

for name, steps in (("as it is", []), ("clipped", [Clipper("iqr", factor=3)])):
    model = make_pipeline(*steps, StandardScaler(), LogisticRegression(max_iter=1000))
    print(f"{name:9} accuracy {model.fit(x_train, y_train).score(x_test, y_test):.3f}")

clipper = Clipper("iqr", factor=3).fit(x_train[:, :2])
print(f"{wrong[:, :2].sum()} values of the first two columns are wrong. The bounds, and what they clip:")
print(clipper.report_)

with tempfile.TemporaryDirectory() as folder:
    source, target = Path(folder, "in.csv"), Path(folder, "out.csv")
    np.savetxt(source, x_train[:, :2], delimiter=",", header="radius,texture", comments="", fmt="%.6g")
    clip_file(source, target, "iqr", factor=3)
    for path in (source, target):
        largest = np.loadtxt(path, delimiter=",", skiprows=1).max(0)
        print(f"{path.name}: largest radius {largest[0]:.6g}, texture {largest[1]:.6g}")
