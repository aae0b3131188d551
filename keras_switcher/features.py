"""Walking a graph of layers, and splitting it into features below and a learning head above."""

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
from keras import tree


@dataclasses.dataclass(frozen=True)
class Split:
    """A functional model split in two: `head(trunk(x))` equals `model(x)`.

    Both parts share the model's layers. The trunk has none of the layers below which the model was
    split, nor any layer that comes after one. This is not a tuple, because Keras would save the
    contents of a tuple.
    """

    trunk: keras.Model
    head: keras.Model


def nodes(operation: Any) -> list[Any]:
    """Return the symbolic calls of a layer or operation, of which Keras has no public list."""
    calls: list[Any] = operation._inbound_nodes
    return calls


def ends(model: keras.Model) -> tuple[Any, Any]:
    """Return a graph's inputs and outputs, in the structure that it was created with.

    This may be a dictionary, for example. For a Sequential model it is one tensor, which is found
    only in its lists of inputs and outputs.
    """
    if isinstance(model, keras.Sequential):
        return model.inputs[0], model.outputs[0]
    return model.input, model.output


def producer(tensor: Any) -> tuple[Any, Any]:
    """Return the operation that produces a symbolic tensor, and the call in which it does."""
    # The graph of a functional model can be reached only through this attribute.
    operation, node_index, _ = tensor._keras_history
    return operation, nodes(operation)[node_index]


def output_layers(model: keras.Model) -> list[keras.layers.Dense]:
    """Return the `Dense` layers whose units are outputs of a graph of layers.

    Layers without a matrix of weights, such as a softmax or a normalisation, may stand between them
    and the output.

    Args:
        model: A built model. Nothing is known about a subclassed one, so its result is empty.
    """
    if not getattr(model, "outputs", None):
        return []
    found: list[keras.layers.Dense] = []
    stack = list(model.outputs)
    seen: set[int] = set()
    while stack:
        tensor = stack.pop()
        if id(tensor) in seen:
            continue
        seen.add(id(tensor))
        operation, node = producer(tensor)
        inner = operation
        while isinstance(inner, keras.layers.Wrapper):
            inner = inner.layer
        if isinstance(inner, keras.layers.Dense):
            found.append(inner)
        elif isinstance(operation, keras.Model) and output_layers(operation):
            found += output_layers(operation)
        elif all(len(weight.shape) < 2 for weight in getattr(operation, "weights", ())):
            stack += node.input_tensors
    return found


def split(model: keras.Model, starts_head: Callable[[keras.layers.Layer], bool]) -> Split | None:
    """Split a functional model at the inputs of the first layers of its head.

    Args:
        model: A built model.
        starts_head: Function that returns whether a layer belongs to the head, with everything
            that comes after it.

    Returns:
        Trunk and head, or `None` if the model is not functional, if no tensor lies between the two,
        or if one that does carries a mask or comes from a layer that the head calls too.
    """
    if not (hasattr(model, "inputs") and hasattr(model, "outputs") and model.inputs):
        return None
    in_head: dict[int, bool] = {}
    cut: dict[int, Any] = {}
    above: set[int] = set()

    def comes_from_head(tensor: Any) -> bool:
        # Depth first without recursion: a deep network would exceed Python's stack.
        stack = [tensor]
        while stack:
            current = stack[-1]
            if id(current) in in_head:
                stack.pop()
                continue
            operation, node = producer(current)
            waiting = [t for t in node.input_tensors if id(t) not in in_head]
            if waiting and operation is not None:
                stack.extend(waiting)
                continue
            own = isinstance(operation, keras.layers.Layer) and starts_head(operation)
            in_head[id(current)] = own or any(in_head[id(t)] for t in node.input_tensors)
            if in_head[id(current)]:
                above.add(id(operation))
                cut.update({id(t): t for t in node.input_tensors if not in_head[id(t)]})
            stack.pop()
        return in_head[id(tensor)]

    for output in model.outputs:
        if not comes_from_head(output):
            cut[id(output)] = output
    if not any(in_head.values()) or set(cut) <= {id(t) for t in model.inputs}:
        return None
    features = list(cut.values())
    if any(getattr(tensor, "_keras_mask", None) is not None for tensor in features):
        # A mask travels with the tensors of one call, and would be lost between trunk and head.
        return None
    if any(id(producer(tensor)[0]) in above for tensor in features):
        # Keras can't clone a graph in which one of the new inputs comes from a layer of the head.
        return None
    inputs, outputs = ends(model)
    between = features[0] if len(features) == 1 else features
    # An output of a model can't be one of its inputs, so what the trunk outputs by itself is
    # renamed.
    head_outputs = tree.map_structure(
        lambda t: t if in_head[id(t)] else keras.layers.Identity(dtype=t.dtype)(t),
        outputs,
    )
    return Split(
        keras.Model(inputs, between, name="trunk"),
        keras.Model(between, head_outputs, name="head"),
    )
