"""Each layer before and after, for a table."""

import dataclasses
from typing import Any

import numpy as np

from .analysis import Analysis
from .features import width


@dataclasses.dataclass(frozen=True)
class LayerSize:
    """The size of a layer.

    Args:
        inputs: Number of input features: the length of the last axis of its first input.
        units: Number of output features: units or channels.
        parameters: Number of weights, biases and statistics included.
        nonzeros: How many of them are not 0.
    """

    inputs: int
    units: int
    parameters: int
    nonzeros: int


@dataclasses.dataclass(frozen=True)
class LayerChange:
    """A layer before and after.

    Args:
        name: Its name, before and after.
        type: Its class, such as `Dense`.
        before: Its size in the given model.
        after: Its size in the compacted one.
    """

    name: str
    type: str
    before: LayerSize
    after: LayerSize


def changes(analysis: Analysis, operations: dict[int, Any]) -> list[LayerChange]:
    """Compare every layer that has weights, in the order of the model.

    Args:
        analysis: What was known and decided about the given model.
        operations: The new layers, by the identity of the old ones.
    """
    found = []
    for part in analysis.graph.parts:
        layer = part.operation
        if not getattr(layer, "weights", ()):
            continue
        given, output = part.calls[0].input_tensors[0], part.calls[0].output_tensors[0]
        before = _size(layer, width(given), width(output))
        inputs = int(analysis.kept[id(given)].sum())
        after = _size(operations[id(layer)], inputs, int(analysis.made(part, output).sum()))
        found.append(LayerChange(layer.name, type(layer).__name__, before, after))
    return found


def _size(layer: Any, inputs: int, units: int) -> LayerSize:
    weights = [np.asarray(weight) for weight in layer.weights]
    parameters = sum(weight.size for weight in weights)
    return LayerSize(inputs, units, parameters, sum(int(np.count_nonzero(w)) for w in weights))
