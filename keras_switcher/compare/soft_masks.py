"""PQuantML's soft mask by magnitude, without a sort of all weights of a layer at every step."""

from typing import Any

import numpy as np
import tensorflow as tf
from keras import ops


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
            return ops.convert_to_tensor(pruning.mask)
        # But for the two magnitudes, these are the package's operations, in its order.
        column = ops.reshape(weight, pruning.softmax_shape)
        flat = ops.ravel(ops.abs(weight))
        place = ops.cast((1 - pruning.r) * size, "int32") - 1
        place = ops.clip(place, 0, int(size) - 2)
        high, low = ops.unstack(ops.take(flat, _indices(flat, place)))
        boundary = ops.ones_like(column) * (0.5 * (high + low))
        logits = ops.concatenate((boundary**2, column**2), axis=-1) / pruning.temp
        _, on = ops.unstack(ops.softmax(logits, axis=-1), axis=-1)
        return ops.reshape(on, weight.shape)

    # The package has no other place for it. Its phases are in variables, too, but Python has to
    # know them when it traces a step.
    pruning._compute_mask = mask


def _indices(flat: tf.Tensor, place: tf.Tensor) -> tf.Tensor:
    """Return where the values at a place of the descending order, and at the next, are."""
    indices = tf.numpy_function(_descending, [flat, place], tf.int32, stateful=False)
    return tf.ensure_shape(indices, [2])


def _descending(values: np.ndarray, place: int) -> np.ndarray:
    """Return the indices of the values at two places of the order in which `top_k` has them.

    Equal values are in the order of their indices.
    """
    if np.isnan(values).any():
        # They have no order. The training has diverged, as its loss will show.
        return np.array([place, place + 1], np.int32)
    ascending = values.size - 1 - np.array([place, place + 1])
    indices = []
    for position, value in zip(
        (place, place + 1), np.partition(values, ascending)[ascending], strict=True
    ):
        larger = np.count_nonzero(values > value)
        indices.append(np.flatnonzero(values == value)[position - larger])
    return np.array(indices, np.int32)
