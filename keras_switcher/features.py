"""Splitting a graph of layers into features below and a learning head above."""

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
from keras import tree

from keras_switcher.graphs import calls, ends, has_graph, producer


@dataclasses.dataclass(frozen=True)
class Split:
    """A functional model split in two: `head(trunk(x))` equals `model(x)`.

    Both parts share the model's layers. The trunk has none of the layers below which the model was
    split, nor any layer that comes after one. This is not a tuple, because Keras would save the
    contents of a tuple.
    """

    trunk: keras.Model
    head: keras.Model


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
    if not has_graph(model):
        return None
    in_head = {id(tensor): False for tensor in model.inputs}
    cut: dict[int, Any] = {}
    above: set[int] = set()
    for call in calls(model):
        operation = call.operation
        starts = isinstance(operation, keras.layers.Layer) and starts_head(operation)
        is_above = starts or any(in_head[id(t)] for t in call.input_tensors)
        in_head.update((id(t), is_above) for t in call.output_tensors)
        if is_above:
            above.add(id(operation))
            cut.update({id(t): t for t in call.input_tensors if not in_head[id(t)]})
    cut.update({id(t): t for t in model.outputs if not in_head[id(t)]})
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
