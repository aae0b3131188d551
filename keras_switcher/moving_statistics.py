"""Moving statistics of several replicas, which Keras lets drift apart."""

from typing import Any

import keras
import tensorflow as tf

from keras_switcher.nesting import walk


class AverageStatistics(keras.callbacks.Callback):
    """Averages the moving statistics of all replicas before they are used.

    These are the moving mean and variance of `BatchNormalization`: every replica, and every worker,
    updates its own from the examples that it sees. Without this callback, a model would be
    evaluated and saved with the statistics of one replica, and each worker would continue with
    different ones.
    """

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        average_statistics(self.model)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        average_statistics(self.model)


def average_statistics(model: keras.Model) -> None:
    """Give every replica the mean of the replicas' moving statistics.

    Args:
        model: A built model. Weights that are trained, and those that every replica computes alike,
            are not changed.
    """
    strategy = model.distribute_strategy
    tracked = [
        variable
        for _, layer in walk(model)
        if isinstance(layer, keras.layers.BatchNormalization)
        for variable in (layer.moving_mean, layer.moving_variance)
    ]
    if strategy.num_replicas_in_sync == 1 or not tracked:
        return
    # One collective for all: each takes far longer than the data that it carries.
    sizes = [int(tf.size(variable.value)) for variable in tracked]

    @tf.function
    def mean() -> tf.Tensor:
        def own() -> tf.Tensor:
            return tf.concat(
                [tf.reshape(tf.cast(v.value, tf.float32), [-1]) for v in tracked], axis=0
            )

        return strategy.reduce(tf.distribute.ReduceOp.MEAN, strategy.run(own), axis=None)

    for variable, values in zip(tracked, tf.split(mean(), sizes), strict=True):
        variable.assign(tf.reshape(values, variable.shape))
