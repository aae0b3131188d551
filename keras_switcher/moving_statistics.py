"""Moving statistics of several replicas, which Keras lets drift apart."""

from typing import Any

import keras
import tensorflow as tf

from keras_switcher.copying import walk


class AverageStatistics(keras.callbacks.Callback):
    """Averages what each replica tracks of its own part of the batches, before it is used.

    The moving mean and variance of `BatchNormalization`, foremost: every replica, and every worker,
    updates its own by the examples that it sees. Without this a model would be evaluated and saved
    with those of one replica, and each worker would go on with others.
    """

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        average_statistics(self.model)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        average_statistics(self.model)


def average_statistics(model: keras.Model) -> None:
    """Give every replica the mean of what the replicas track.

    Args:
        model: A built model. Its weights that are trained, and those that every replica computes
            alike, stay as they are.
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
    # One collective for all: each takes far longer than what it carries.
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
