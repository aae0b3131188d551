"""Networks without a sparse layer: the whole one, and a narrow one as small as the sparse ones."""

from typing import Any

import keras

from keras_switcher.compare.method import Layers, Method, dense_layers, register
from keras_switcher.compare.plan import TRAINING
from keras_switcher.compare.work import Work
from keras_switcher.config import Config
from keras_switcher.files import RunError
from keras_switcher.graphs import output_layers
from keras_switcher.networks import Start, compiled_dense, dense_model
from keras_switcher.state import copy_weights


@register("dense")
class Dense(Method):
    """The network as it is."""

    title = "dense"
    is_sparse = False
    reads = TRAINING

    def model(self, work: Work) -> keras.Model:
        return dense_model(work.config, work.data, work.start())


@register("small-dense")
class SmallDense(Method):
    """The network with fewer units in its dense hidden layers, for as many parameters as are left.

    All hidden layers are narrowed by one factor, so that the network has, to within a unit, as many
    parameters as the sparse ones have left. Only the first hidden layer may get fewer units than
    there are classes; the others stop there, whatever the common factor. The narrow layers have new
    weights from the same initialisation.
    """

    title = "small dense"
    reads = TRAINING

    def check(self, config: Config, start: Start) -> None:
        target = config.switching.target_sparsity or 0.0
        wanted = _remaining(start.learned, target)
        least = _clone(start.learned, _units(start.learned, 0.0, _classes(start))).count_params()
        if least > wanted:
            raise RunError(
                f"Expected a sparsity that leaves at least {least:,} parameters, with which the "
                "dense hidden layers have as many units as there are classes. Received: "
                f"{target:g}, which leaves {wanted:,.0f}"
            )

    def model(self, work: Work) -> keras.Model:
        start = work.start()
        self._whole = {row["name"]: row for row in dense_layers(start.learned)}
        parameters = _remaining(start.learned, work.target_sparsity)
        small = narrowed(start.learned, parameters, _classes(start))
        self._lost = start.learned.count_params() - small.count_params()
        return compiled_dense(work.config, work.data, start, small)

    def remaining(self, model: keras.Model, work: Work) -> int:
        return work.parameters - self._lost

    def layers(self, model: keras.Model) -> Layers:
        # Out of the whole network's connections: those that are not there are off.
        return [{**self._whole[row["name"]], "on": row["on"]} for row in dense_layers(model)]


def narrowed(network: keras.Model, parameters: float, least_units: int) -> keras.Model:
    """Return a network whose dense hidden layers are narrower; the dense layers have new weights.

    Args:
        network: A graph of layers.
        parameters: The most parameters that it may have; but no layer has less than one unit.
        least_units: The fewest units of any hidden layer but the first.

    Raises:
        RunError: If it has no dense hidden layer.
    """
    low, high = 0.0, 1.0
    # Enough steps to resolve a single unit of the widest layer.
    for _ in range(16):
        middle = (low + high) / 2
        fits = _clone(network, _units(network, middle, least_units)).count_params() <= parameters
        low, high = (middle, high) if fits else (low, middle)
    return _clone(network, _units(network, low, least_units))


def _remaining(network: keras.Model, sparsity: float) -> float:
    """Return how many parameters a network has left at a sparsity of its dense layers."""
    connections = sum(row["connections"] for row in dense_layers(network))
    return float(network.count_params() - sparsity * connections)


def _classes(start: Start) -> int:
    return int(start.learned.output_shape[-1])


def _units(network: keras.Model, factor: float, least: int) -> dict[str, int]:
    """Return the units of each dense hidden layer, narrowed by a factor.

    Raises:
        RunError: If there is none.
    """
    hidden = _hidden(network)
    fewest = [1, *(min(least, layer.units) for layer in hidden[1:])]
    return {
        layer.name: max(few, round(factor * layer.units))
        for layer, few in zip(hidden, fewest, strict=True)
    }


def _hidden(network: keras.Model) -> list[Any]:
    """Return the dense hidden layers of a network.

    Raises:
        RunError: If it has none.
    """
    outputs = {layer.name for layer in output_layers(network)}
    hidden = [
        layer
        for layer in network.layers
        if isinstance(layer, keras.layers.Dense) and layer.name not in outputs
    ]
    if not hidden:
        raise RunError(
            "A small dense network needs a dense hidden layer to make narrower. Received: "
            f"'{network.name}', which has none."
        )
    return hidden


def _clone(network: keras.Model, units: dict[str, int]) -> keras.Model:
    def clone(layer: Any) -> Any:
        config = layer.get_config()
        if layer.name in units:
            config["units"] = units[layer.name]
        return type(layer).from_config(config)

    copy = keras.models.clone_model(network, clone_function=clone)
    for old, new in zip(network.layers, copy.layers, strict=True):
        shapes = [[weight.shape for weight in layer.weights] for layer in (old, new)]
        if not isinstance(old, keras.layers.Dense) and shapes[0] == shapes[1]:
            copy_weights(old, new)
    return copy
