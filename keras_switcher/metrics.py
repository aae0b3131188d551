"""Sparsity as a Keras metric and as a table."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops

from keras_switcher.layers import SwitchedDense, switched_layers


class Sparsity(keras.metrics.Metric):
    """FC sparsity: the share of switched connections that are currently off.

    It has no state of its own: `result` counts the switches of the layers.

    Args:
        layers: Function that returns the switched layers.
        name: Name in the logs.
    """

    def __init__(
        self, layers: Callable[[], Sequence[SwitchedDense]], name: str = "sparsity"
    ) -> None:
        super().__init__(name=name, dtype="float32")
        self._layers_of_model = layers

    def update_state(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the switches are the state."""

    def reset_state(self) -> None:
        """Do nothing: the switches are the state."""

    def result(self) -> Any:
        """Return the sparsity, a float32 scalar in [0, 1]."""
        # Of a layer that only training uses, the switches do not exist before.
        layers = [layer for layer in self._layers_of_model() if layer.built]
        if not layers:
            return ops.zeros(())
        on = sum(layer.on_connections() for layer in layers)
        return 1.0 - on / sum(layer.connections for layer in layers)


def switcher_parameters(model: Any) -> int:
    """Return the number of weights of all switchers of a `SwitchedModel`."""
    return sum(math.prod(v.shape) for v in model.switcher_variables)


def layer_table(model: keras.Model) -> list[dict[str, Any]]:
    """Return one row per switched layer: name, shape, connections, on.

    Args:
        model: A model with `SwitchedDense` layers.

    Returns:
        Rows with `name`, `shape` (inputs, units), `connections` and `on` (counts).
    """
    return [
        {
            "name": layer.name,
            "shape": list(layer.kernel.shape),
            "connections": layer.connections,
            "on": _count_on(layer),
        }
        for layer in switched_layers(model)
    ]


def _count_on(layer: SwitchedDense) -> int:
    # Count in integers: float32, in which a layer counts, holds no odd number above 2**24.
    on = ops.convert_to_numpy(layer.switches) > 0
    return int((on * layer.group_sizes().astype("int64")).sum())
