"""The layers inside a layer or a model, at any depth, each with its path."""

import functools
from collections import Counter
from typing import Any

import keras
from keras.layers import Layer

from keras_switcher.layers import SwitchedDense


@functools.cache
def _keras_attributes() -> set[str]:
    """Return the names of the attributes that Keras itself gives to layers and models."""
    tensor = keras.Input((1,))
    examples = (
        keras.layers.Layer(),
        keras.Model(),
        keras.Sequential(),
        keras.Model(tensor, tensor),
    )
    return {name for example in examples for name in vars(example)}


def entries(layer: Layer) -> list[tuple[Any, Any, str, Layer]]:
    """Return the layers held in a layer's attributes: (container, key, path, layer)."""
    found = []

    def visit(container: Any, key: Any, path: str, value: Any) -> None:
        if isinstance(value, Layer):
            found.append((container, key, path, value))
        elif isinstance(value, (list, tuple)):
            for index, item in enumerate(value):
                visit(value, index, f"{path}/{index}", item)
        elif isinstance(value, dict):
            for name, item in value.items():
                visit(value, name, f"{path}/{name}", item)

    ours = _keras_attributes()
    for name, value in list(vars(layer).items()):
        if name not in ours:
            visit(layer, name, name, value)
    return found


def lists_its_layers(layer: Layer) -> bool:
    """Return whether a layer is a model whose layers are held in no attribute."""
    return isinstance(layer, keras.Model) and (
        isinstance(layer, keras.Sequential) or bool(getattr(layer, "inputs", None))
    )


def children(layer: Layer) -> list[tuple[str, Layer]]:
    """Return the layers directly inside a layer, each with its path."""
    if lists_its_layers(layer):
        return [(f"layers/{index}", child) for index, child in enumerate(layer.layers)]
    return [(path, child) for _, _, path, child in entries(layer)]


def walk(layer: Layer) -> list[tuple[str, Layer]]:
    """Return all layers inside a layer, at any depth, with their paths."""
    found, seen = [], {id(layer)}
    stack = [("", layer)]
    while stack:
        prefix, current = stack.pop()
        for path, child in children(current):
            if id(child) in seen:
                continue
            seen.add(id(child))
            full = f"{prefix}/{path}" if prefix else path
            found.append((full, child))
            if not isinstance(child, SwitchedDense):
                stack.append((full, child))
    return found


def inside_layers(model: keras.Model) -> list[tuple[str, Layer]]:
    """Return the layers, with their paths, that stand inside layers of a graph, but not in it."""

    def in_graph(graph: keras.Model) -> set[int]:
        found = {id(layer) for layer in graph.layers}
        return found.union(*(in_graph(layer) for layer in graph.layers if lists_its_layers(layer)))

    direct = in_graph(model)
    return [(path, layer) for path, layer in walk(model) if id(layer) not in direct]


def serialized_switched(layers: list[tuple[str, Layer]]) -> dict[str, Any]:
    """Return the configurations of the switched ones among some layers, by their paths."""
    return {
        path: keras.saving.serialize_keras_object(layer)
        for path, layer in layers
        if isinstance(layer, SwitchedDense)
    }


def shared_layers(model: keras.Model) -> list[Layer]:
    """Return the layers that stand in several layers of a graph, or in it and in one of them.

    Args:
        model: The graph; the graphs in it count as parts of it.
    """
    operations: dict[int, Layer] = {}

    def visit(graph: keras.Model) -> None:
        for layer in graph.layers:
            if lists_its_layers(layer):
                visit(layer)
            else:
                operations[id(layer)] = layer

    visit(model)
    inside = [{id(la): la for la in (op, *(i for _, i in walk(op)))} for op in operations.values()]
    uses = Counter(number for layers in inside for number in layers)
    every = {number: layer for layers in inside for number, layer in layers.items()}
    return [every[number] for number, count in uses.items() if count > 1]
