"""Two devices on TensorFlow, which must be asked for before anything is computed."""

import keras

import clipwise.keras  # noqa: F401

if keras.backend.backend() == "tensorflow":
    import tensorflow as tf

    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
    )
