"""PQuantML's soft mask by magnitude, without a sort of all weights of a layer at every step."""

from typing import Any

import numpy as np
import tensorflow as tf


def without_sorting(pruning: Any) -> None:
    """Have a layer of the package compute its mask with the same numbers in less time.

    In every step, the package sorts the magnitudes of all weights, for the two that stand at the
    boundary, also before and after pruning, when another mask is in use. Here a partition finds
    these two, and only while the network is pruned. Values and gradients are the same to the bit.
    A step must be traced anew when pruning begins and ends, and not be compiled by XLA.

    Args:
        pruning: The package's built `PDP` layer, whose masks are of single weights.
    """
    size = pruning.flat_weight_size

    def mask(weight: Any) -> Any:
        if pruning._is_pretraining or pruning._is_finetuning:
            return tf.convert_to_tensor(pruning.mask)
        # But for the two magnitudes, these are the package's operations, in its order.
        column = tf.reshape(weight, pruning.softmax_shape)
        flat = tf.reshape(tf.abs(weight), [-1])
        place = tf.cast((1 - tf.convert_to_tensor(pruning.r)) * size, "int32") - 1
        place = tf.clip_by_value(place, 0, int(size) - 2)
        high, low = tf.unstack(tf.gather(flat, _indices(flat, place)))
        boundary = tf.ones_like(column) * (0.5 * (high + low))
        logits = tf.concat((boundary**2, column**2), axis=-1) / pruning.temp
        _, on = tf.unstack(tf.nn.softmax(logits, axis=-1), axis=-1)
        return tf.reshape(on, weight.shape)

    pruning._compute_mask = mask


def _indices(flat: tf.Tensor, place: tf.Tensor) -> tf.Tensor:
    """Return where the values at a place of the descending order, and at the next, are."""
    indices = tf.numpy_function(_descending, [flat, place], tf.int32, stateful=False)
    return tf.ensure_shape(indices, [2])


def _descending(values: np.ndarray, place: int) -> np.ndarray:
    """Return the indices of the values at two places of the order in which `top_k` has them.

    Equal values are in the order of their indices.
    """
    ascending = values.size - 1 - np.array([place, place + 1])
    indices = []
    for position, value in zip(
        (place, place + 1), np.partition(values, ascending)[ascending], strict=True
    ):
        larger = np.count_nonzero(values > value)
        indices.append(np.flatnonzero(values == value)[position - larger])
    return np.array(indices, np.int32)
