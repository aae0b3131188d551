"""Gradients by the switches, kept for the switcher's turn, and gradients that overflow."""

import logging
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from keras_switcher.layers import SwitchedDense

logger = logging.getLogger(__name__)


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

        self._layers = list(layers)
        self._sums = [zeros(layer.switches.shape) for layer in layers]
        self._steps = zeros(())
        self._has_warned = False

    def add(self, gradients: Sequence[Any]) -> None:
        """Add the gradients of a task step, in a replica.

        Args:
            gradients: One for each layer, float32 of its switches' shape; `None` for zeros.
        """
        self._steps.assign_add(1.0, read_value=False)
        for total, gradient in zip(self._sums, gradients, strict=True):
            if gradient is not None:
                total.assign_add(gradient, read_value=False)

    def warn_of_missing(self, gradients: Sequence[Any], reached: Sequence[Any]) -> None:
        """Warn, once, of layers whose kernels learn from the loss, but whose switches don't.

        Args:
            gradients: One for each layer, by its switches; `None` where there is none.
            reached: The variables by which there is a gradient.
        """
        known = {id(variable) for variable in reached}
        pairs = zip(self._layers, gradients, strict=True)
        missing = [la.path for la, g in pairs if g is None and id(la.kernel) in known]
        if missing and not self._has_warned:
            self._has_warned = True
            logger.warning(
                "The loss reaches the kernel, but not the switches of %s: they will not learn from "
                "it. A layer that is computed again for the gradient (keras.remat, "
                "tf.recompute_grad), or whose kernel only a regulariser or other code reads, has "
                "to be left out, by `layers` of `switch`.",
                ", ".join(missing),
            )

    def means(self) -> list[Any]:
        """Return the mean gradients of the replica that asks: float32, of the switches' shapes."""
        steps = ops.maximum(tf.convert_to_tensor(self._steps), 1.0)
        return [tf.convert_to_tensor(total) / steps for total in self._sums]

    def reset(self) -> None:
        """Begin anew: after a turn, and when an epoch begins, as that may be of a resumed run."""
        for variable in (*self._sums, self._steps):
            # Reading the new value here would sum it over all replicas.
            variable.assign(tf.zeros(variable.shape), read_value=False)


def overflowing_together(
    optimizer: keras.optimizers.Optimizer, gradients: Sequence[Any]
) -> list[Any]:
    """Make the gradients of a scaled loss NaN in all replicas if they are not finite in one.

    The `LossScaleOptimizer` of Keras asks each process's first replica alone whether to skip a
    step. If another one's gradients overflow, it would take the step, and two processes that
    disagree would wait for each other for ever.

    Args:
        optimizer: The optimiser.
        gradients: Its gradients in the replica that asks; `None` where there is none.

    Returns:
        The gradients, unchanged where there is one replica or the optimiser does not scale.
    """
    replica = tf.distribute.get_replica_context()
    is_scaled = isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
    if not is_scaled or replica.num_replicas_in_sync == 1:
        return list(gradients)
    finite = [
        ops.all(ops.isfinite(g.values if isinstance(g, tf.IndexedSlices) else g))
        for g in gradients
        if g is not None
    ]
    overflown = replica.all_reduce("SUM", ops.cast(ops.logical_not(ops.all(finite)), "float32"))
    added = ops.where(overflown > 0, float("nan"), 0.0)

    def together(gradient: Any) -> Any:
        if isinstance(gradient, tf.IndexedSlices):
            values = gradient.values + ops.cast(added, gradient.dtype)
            return tf.IndexedSlices(values, gradient.indices, gradient.dense_shape)
        return None if gradient is None else gradient + ops.cast(added, gradient.dtype)

    return [together(gradient) for gradient in gradients]
