"""The new model: every layer is made again, for the features that are kept."""

from typing import Any

import keras
import numpy as np
from keras import layers, ops, tree

from keras_switcher.graphs import ends, producer
from keras_switcher.recreating import copied
from keras_switcher.state import copy_weights

from ..errors import ExportError
from .analysis import Analysis
from .graph import Part


def rebuild(model: keras.Model, analysis: Analysis) -> tuple[keras.Model, dict[int, Any]]:
    """Make a functional model of the kept features.

    Args:
        model: The model that was analysed.
        analysis: The analysis of it.

    Returns:
        The model, and its operations by the identity of the operation of the given model that each
        stands for.
    """
    graph = analysis.graph
    names = {call.operation.name for call in graph.calls}
    tensors: dict[int, Any] = {}
    operations: dict[int, Any] = {}
    part_of = {id(call): part for part in graph.parts for call in part.calls}

    def put(part: Part | None, tensor: Any, new: Any) -> None:
        made, kept = analysis.made(part, tensor), analysis.kept[id(tensor)]
        tensors[id(tensor)] = new if made.sum() == kept.sum() else _gather(new, kept[made], names)

    given = {id(tensor): _copy(producer(tensor)[0]).output for tensor in graph.inputs}
    for tensor in graph.inputs:
        put(None, tensor, given[id(tensor)])
    for call in graph.calls:
        part, operation = part_of[id(call)], call.operation
        weights: list[np.ndarray] = []
        new = operations.get(id(operation))
        if new is None and part.rule is not None:
            config, weights = part.rule.rebuilt(analysis.around(part))
            new = _copy(operation, config)
        elif new is None:
            new = _copy(operation)
        args, kwargs = tree.map_structure(
            lambda value: tensors.get(id(value), value),
            (call.arguments.args, call.arguments.kwargs),
        )
        outputs = tree.flatten(new(*args, **kwargs))
        if id(operation) not in operations:
            operations[id(operation)] = new
            if weights:
                new.set_weights(weights)
            elif part.rule is None and isinstance(operation, layers.Layer) and new is not operation:
                copy_weights(operation, new)
        for tensor, output in zip(call.output_tensors, outputs, strict=True):
            put(part, tensor, output)
    # What stands for an input inside the graph may be a gather of it.
    outside = tensors | given
    inputs, outputs = tree.map_structure(lambda tensor: outside[id(tensor)], ends(model))
    return keras.Model(inputs, outputs, name=model.name), operations


def _gather(tensor: Any, kept: np.ndarray, names: set[str]) -> Any:
    """Take some entries of a vector, by an operation whose name no other has.

    Args:
        tensor: A symbolic tensor of shape (batch, entries).
        kept: Which entries to take, of shape (entries,).
        names: Names that are in use; the new one is added.
    """
    indices = np.flatnonzero(kept).astype("int32")
    while True:
        # Keras numbers the names that it gives, regardless of those that a loaded model has.
        gathered = ops.take(tensor, indices, axis=-1)
        name = producer(gathered)[0].name
        if name not in names:
            names.add(name)
            return gathered


def _copy(operation: Any, config: dict[str, Any] | None = None) -> Any:
    """Copy a layer, or an operation on tensors.

    Args:
        operation: The one to copy.
        config: The configuration of the copy; by default, that of the operation.
    """
    try:
        return copied(operation) if config is None else type(operation).from_config(config)
    except (NotImplementedError, TypeError, ValueError) as error:
        if config is None and not getattr(operation, "weights", ()):
            return operation
        said = " ".join(str(error.__cause__ or error).split())
        reason = f"it does not come back from its own configuration ({said})"
        raise ExportError(
            f"The model can't be compacted: layer '{operation.name}' can't be copied: {reason}. "
            f"Received: a {type(operation).__name__}"
        ) from error
