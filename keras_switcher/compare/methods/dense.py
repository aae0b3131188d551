"""Networks without a sparse layer: the whole one, and a narrow one of as many parameters."""

from typing import Any

import keras

from keras_switcher.compare.method import Layers, Method, Work, dense_layers, register
from keras_switcher.compare.plan import TRAINING
from keras_switcher.config import Config
from keras_switcher.features import output_layers
from keras_switcher.networks import Start, compiled_dense, dense_model
from keras_switcher.runs import RunError


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
    """The network with fewer units in its dense hidden layers: as many parameters as are left.

    All hidden layers are narrowed by one factor, so that the network has, to within a unit, as many
    parameters as the sparse ones have left; no hidden layer but the first gets fewer units than
    there are classes. The narrow layers have new weights of the same initialisation.
    """

    title = "small dense"
    reads = TRAINING

    def check(self, config: Config, start: Start) -> None:
        _hidden(start.learned)

    def model(self, work: Work) -> keras.Model:
        start = work.start()
        self._whole = {row["name"]: row for row in dense_layers(start.learned)}
        connections = sum(row["connections"] for row in self._whole.values())
        parameters = start.learned.count_params() - work.target_sparsity * connections
        small = narrowed(start.learned, parameters, work.images.num_classes)
        self._lost = start.learned.count_params() - small.count_params()
        return compiled_dense(work.config, work.data, start, small)

    def remaining(self, model: keras.Model, work: Work) -> int:
        return work.parameters - self._lost

    def layers(self, model: keras.Model) -> Layers:
        # Of the whole network's connections: what is not there is off.
        return [{**self._whole[row["name"]], "on": row["on"]} for row in dense_layers(model)]


def narrowed(network: keras.Model, parameters: float, least_units: int) -> keras.Model:
    """Return a network whose dense hidden layers are narrower; the dense layers have new weights.

    Args:
        network: A graph of layers.
        parameters: How many parameters it may have, at most; but no layer has less than one unit.
        least_units: What no hidden layer but the first may fall below.

    Raises:
        RunError: If it has no dense hidden layer.
    """
    hidden = _hidden(network)

    def with_factor(factor: float) -> dict[str, int]:
        least = [1, *(min(least_units, layer.units) for layer in hidden[1:])]
        return {
            layer.name: max(fewest, round(factor * layer.units))
            for layer, fewest in zip(hidden, least, strict=True)
        }

    low, high = 0.0, 1.0
    # Enough to tell a single unit of the widest layer.
    for _ in range(16):
        middle = (low + high) / 2
        fits = _clone(network, with_factor(middle)).count_params() <= parameters
        low, high = (middle, high) if fits else (low, middle)
    return _clone(network, with_factor(low))


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
            new.set_weights(old.get_weights())
    return copy
