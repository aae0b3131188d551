import json
import os
import subprocess
import sys

import pytest
from command import SMALL

# Devices are configured before TensorFlow starts: in a process of its own.
PROGRAM = """
import json
import keras
import numpy as np
import tensorflow as tf
from keras_switcher import switch
from keras_switcher.moving_statistics import AverageStatistics, average_statistics

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])


def replicas(variable):
    return [v.numpy().tolist() for v in strategy.experimental_local_results(variable.value)]


with strategy.scope():
    model = switch(keras.Sequential([
        keras.Input((2,)),
        keras.layers.BatchNormalization(momentum=0.5, name="norm"),
        keras.layers.Dense(3),
    ]))
    model.compile("sgd", "mse", switcher_optimizer="sgd")
# The first replica sees ones, the second one threes.
x = np.repeat([[1.0, 1.0], [3.0, 3.0]], 4, axis=0)
fit = {"x": x, "y": np.zeros((8, 3)), "batch_size": 8, "verbose": 0, "shuffle": False}
norm = model.get_layer("norm")
model.fit(**fit)
report = {"apart": replicas(norm.moving_mean)}
average_statistics(model)
report["mean"] = replicas(norm.moving_mean)
report["variance"] = replicas(norm.moving_variance)
report["kernels"] = replicas(model.switched_layers()[0].kernel)
model.fit(**fit, callbacks=[AverageStatistics()])
report["after an epoch"] = replicas(norm.moving_mean)
print(json.dumps(report))
"""


@pytest.fixture(scope="module")
def report():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_keras_lets_the_replicas_drift_apart(report):
    """If it doesn't any more, the callback can go."""
    assert report["apart"] == [[0.5, 0.5], [1.5, 1.5]]


def test_every_replica_gets_the_mean(report):
    assert report["mean"] == [[1.0, 1.0], [1.0, 1.0]]
    assert report["variance"] == [[0.5, 0.5], [0.5, 0.5]]
    assert report["kernels"][0] == report["kernels"][1]
    assert report["after an epoch"] == [[1.5, 1.5], [1.5, 1.5]]


def test_one_replica_keeps_its_own():
    import keras
    import numpy as np

    from keras_switcher.moving_statistics import average_statistics

    model = keras.Sequential([keras.Input((2,)), keras.layers.BatchNormalization()])
    model.layers[0].moving_mean.assign([3.0, 4.0])
    average_statistics(model)
    assert np.asarray(model.layers[0].moving_mean).tolist() == [3.0, 4.0]


def test_a_run_averages_before_it_validates_and_saves(train_here, monkeypatch):
    from keras_switcher import fitting

    seen = []

    class Recorded(fitting.AverageStatistics):
        def on_test_begin(self, logs=None):
            super().on_test_begin(logs)
            seen.append("averaged")

        def on_epoch_end(self, epoch, logs=None):
            super().on_epoch_end(epoch, logs)
            seen.append("averaged")

    class Saved(fitting.SaveCheckpoints):
        def on_test_begin(self, logs=None):
            seen.append("validates")

        def on_epoch_end(self, epoch, logs=None):
            seen.append("saves")
            super().on_epoch_end(epoch, logs)

    monkeypatch.setattr(fitting, "AverageStatistics", Recorded)
    monkeypatch.setattr(fitting, "SaveCheckpoints", Saved)
    status, output = train_here(*SMALL, "--no-dense-baseline", "--epochs", "1", "--run-dir", "r")
    assert status == 0, output
    assert seen == ["averaged", "validates", "averaged", "saves"]
