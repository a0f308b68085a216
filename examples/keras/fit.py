"""Keras 3: a clipped optimizer in `fit`, on whichever back end KERAS_BACKEND names.

`ClipMonitor` puts norm, threshold and clip fraction into the history; the clip is saved with the model.

    KERAS_BACKEND=jax python examples/keras/fit.py          # or torch, or tensorflow
"""

import tempfile
from pathlib import Path

import keras
import numpy as np

import clipwise.keras

keras.utils.set_random_seed(0)
rng = np.random.default_rng(0)
x = rng.normal(size=(2048, 16)).astype("float32")
y = np.square(x[:, :4]).sum(1, keepdims=True)

model = keras.Sequential(
    [keras.layers.Dense(64, "relu"), keras.layers.Dense(64, "relu"), keras.layers.Dense(1)]
)
optimizer = clipwise.keras.attach(keras.optimizers.Adam(3e-3), clipwise.clip_by_global_norm(3.0))
model.compile(optimizer, loss="mse")
history = model.fit(x, y, batch_size=64, epochs=4, verbose=0, callbacks=[clipwise.keras.ClipMonitor()])

print(f"back end {keras.backend.backend()}")
columns = ("loss", "clipwise/norm", "clipwise/norm_after", "clipwise/clip_fraction")
for epoch in range(4):
    figures = "  ".join(f"{name} {history.history[name][epoch]:.3g}" for name in columns)
    print(f"epoch {epoch + 1}  {figures}")
print(f"last step: {clipwise.keras.report(model.optimizer)}")

with tempfile.TemporaryDirectory() as folder:
    path = Path(folder, "model.keras")
    model.save(path)
    loaded = keras.saving.load_model(path)
same = float(clipwise.keras.report(loaded.optimizer).norm) == float(
    clipwise.keras.report(model.optimizer).norm
)
print(f"saved and loaded, the clip and its last report with it: {same}")
