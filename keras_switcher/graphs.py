"""Graphs of layers, of Functional and Sequential models."""

from typing import Any

import keras


def check_model(model: Any, function: str) -> None:
    """Check that a function was given a built model.

    Args:
        model: What it was given.
        function: Its name, in the error.

    Raises:
        TypeError: If that is not a model.
        ValueError: If it is not built.
    """
    if not isinstance(model, keras.Model):
        raise TypeError(
            f"{function} expects a keras.Model. Received: {model!r} (of type "
            f"{type(model).__name__})"
        )
    if not model.built:
        raise ValueError(
            f"Model '{model.name}' is not built, so its kernels do not exist yet. Give it an Input "
            "layer, or call it on a batch of data first. Received: an unbuilt "
            f"{type(model).__name__}"
        )


def has_graph(model: keras.Model) -> bool:
    """Return whether the model is a graph of layers: Functional, or a built Sequential."""
    return bool(getattr(model, "inputs", None)) and bool(getattr(model, "outputs", None))


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


def calls(model: keras.Model) -> list[Any]:
    """Return the symbolic calls of a graph, each after those it depends on.

    Args:
        model: A Functional model, or a built Sequential one. The calls of its input layers are left
            out.
    """
    ordered: list[Any] = []
    done = {id(tensor) for tensor in model.inputs}
    # Depth first without recursion, as a deep network would exceed Python's stack.
    stack = list(reversed(model.outputs))
    while stack:
        tensor = stack[-1]
        if id(tensor) in done:
            stack.pop()
            continue
        _, call = producer(tensor)
        waiting = [t for t in call.input_tensors if id(t) not in done]
        if waiting:
            stack.extend(reversed(waiting))
            continue
        ordered.append(call)
        done.update(id(t) for t in call.output_tensors)
        stack.pop()
    return ordered


def output_layers(model: keras.Model) -> list[keras.layers.Dense]:
    """Return the `Dense` layers whose units are outputs of a graph of layers.

    Layers without a matrix of weights, such as a softmax or a normalisation, may stand between them
    and the output.

    Args:
        model: A built model. Nothing is known about a subclassed one, so its result is empty.
    """
    if not has_graph(model):
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
