"""The gradient of the loss by the switches, which task steps leave for the switcher's turn."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf
from keras import ops

from keras_switcher.layers import SwitchedDense


class SwitchGradients:
    """The mean gradient by the switches over the task steps since the switcher's last turn.

    The switches stay the same between two turns, so that all these gradients are by the same
    switches. Under a distribution strategy each replica keeps those of its own examples, and adds
    nothing to what is sent. They are no part of the model's state, in no file and no checkpoint:
    an epoch begins without any.

    Args:
        layers: The switched layers, built.
    """

    def __init__(self, layers: Sequence[SwitchedDense]) -> None:
        def zeros(shape: Sequence[int]) -> tf.Variable:
            return tf.Variable(
                tf.zeros(shape),
                trainable=False,
                synchronization=tf.VariableSynchronization.ON_READ,
                aggregation=tf.VariableAggregation.SUM,
            )

        self._sums = [zeros(layer.switches.shape) for layer in layers]
        self._steps = zeros(())

    def add(self, gradients: Sequence[Any]) -> None:
        """Add the gradients of a task step, in a replica.

        Args:
            gradients: One for each layer, float32 of its switches' shape; `None` for zeros.
        """
        self._steps.assign_add(1.0, read_value=False)
        for total, gradient in zip(self._sums, gradients, strict=True):
            if gradient is not None:
                total.assign_add(gradient, read_value=False)

    def means(self) -> list[Any]:
        """Return the mean gradients of the replica that asks: float32, of the switches' shapes."""
        steps = ops.maximum(tf.convert_to_tensor(self._steps), 1.0)
        return [tf.convert_to_tensor(total) / steps for total in self._sums]

    def reset(self) -> None:
        """Begin anew: after a turn, and when an epoch begins, as that may be of a resumed run."""
        for variable in (*self._sums, self._steps):
            # What it would return is summed over all replicas.
            variable.assign(tf.zeros(variable.shape), read_value=False)
