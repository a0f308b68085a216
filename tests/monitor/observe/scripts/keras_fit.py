"""A small model, by `fit` twice, saved, and by `train_on_batch`; prints a digest of its weights."""

import hashlib
import sys
import zipfile

import keras
import numpy as np

keras.utils.set_random_seed(1)
model = keras.Sequential(
    [keras.Input((5,)), keras.layers.Dense(6, "relu"), keras.layers.Dropout(0.1), keras.layers.Dense(1)]
)
model.compile(keras.optimizers.Adam(0.01), loss="mse")
x = np.random.default_rng(0).normal(size=(64, 5)).astype("float32")
y = x.sum(1, keepdims=True)
model.fit(x, y, batch_size=16, epochs=2, verbose=0)
model.fit(x, y, 16, 1, 0)
model.save(sys.argv[1])
model.train_on_batch(x[:16], y[:16])
sums = hashlib.sha256()
for weights in model.get_weights():
    sums.update(weights.tobytes())
print("digest", sums.hexdigest())
print("saved", "clipwise" in zipfile.ZipFile(sys.argv[1]).read("config.json").decode())
second = keras.Sequential([keras.Input((5,)), keras.layers.Dense(1)], name="second")
second.compile("sgd", loss="mse")
second.train_on_batch(x[:16], y[:16])
loaded = keras.saving.load_model(sys.argv[1])
print("loaded", type(loaded.optimizer).__name__, len(loaded.optimizer.variables))
