"""`page.json`: what the page that `serve` shows knows about a model besides its files."""

import base64
import math
from typing import Any

import keras
import numpy as np

from keras_switcher.graphs import calls, producer

from .artifacts import labels
from .convert import class_count, fixed_shape, score_kind
from .source import Examples, Source

_EXAMPLES = 10
# Of this many test images, one is not all dark.
_LOOKED_AT = 100
# The shape of MNIST's images, as Keras loads them.
_DIGIT = (28, 28)
_EXAMPLE_BYTES = 200_000
"""Limit for all examples together: the page loads them before the first answer."""

# These layers leave every value in its place, so places are the same before and after them.
_IN_PLACE = (
    keras.layers.Activation,
    keras.layers.BatchNormalization,
    keras.layers.Dropout,
    keras.layers.Identity,
    keras.layers.LeakyReLU,
    keras.layers.Normalization,
    keras.layers.ReLU,
    keras.layers.Rescaling,
)


def page_facts(source: Source) -> dict[str, Any]:
    """Return the content of `page.json`: the model's inputs and outputs, and examples to try.

    Args:
        source: What is exported.
    """
    return {
        "model": source.name,
        "dataset": source.summary.get("dataset"),
        "fc_sparsity": source.summary.get("fc_sparsity"),
        "inputs": [
            {"name": one.name, "shape": list(fixed_shape(one))} for one in source.model.inputs
        ],
        "picture": picture_shape(source),
        "labels": _labels(source),
        "scores": score_kind(source.model),
        "live_inputs": live_inputs(source.model),
        "examples": example_images(source.examples),
        "takes_pixels": takes_pixels(source.examples),
    }


def _labels(source: Source) -> list[str] | None:
    """Return a name for each class, also for the two that a sigmoid tells apart."""
    names = labels(source)
    if not names and class_count(source.model) == 2:
        names = list(source.examples.class_names)
        names = names if len(names) == 2 else ["0", "1"]
    return names or None


def picture_shape(source: Source) -> list[int] | None:
    """Return what pictures a model takes: rows, columns and channels; `None` if it takes none.

    Args:
        source: What is exported.
    """
    shapes = [fixed_shape(one) for one in source.model.inputs]
    if len(shapes) != 1 or not takes_pixels(source.examples):
        return None
    (shape,) = shapes
    if len(shape) == 3 and shape[2] in (1, 3):
        return list(shape)
    # Rows and columns may also be those of a sequence or a table.
    if shape == _DIGIT or (len(shape) == 2 and _are_pictures(source.examples)):
        return [*shape, 1]
    return None


def live_inputs(model: keras.Model) -> dict[str, Any] | None:
    """Return which inputs of the first layer with switched-off connections still have a connection.

    Args:
        model: A functional model of plain layers.

    Returns:
        `None` if no dense layer has a zero in its kernel. Otherwise the layer's `name`, its numbers
        of `inputs` and `live` inputs, and where the inputs lie: `kind` is `pixels` if they are the
        model's own inputs, `features` if they come from places on a map, and `vector` if they have
        no place. `shape` is (rows, columns, channels), or (1, inputs, 1) for a vector;
        `connections` counts, row by row, the connections that are on at each place.
    """
    for call in calls(model):
        layer = call.operation
        if not isinstance(layer, keras.layers.Dense):
            continue
        kernel = np.asarray(layer.kernel)
        if np.count_nonzero(kernel) < kernel.size:
            break
    else:
        return None
    on = np.count_nonzero(kernel, axis=1)
    kind, shape = _places(call.input_tensors[0], len(on))
    rows, columns, channels = shape
    return {
        "name": layer.name,
        "inputs": len(on),
        "live": int(np.count_nonzero(on)),
        "kind": kind,
        "shape": list(shape),
        "connections": on.reshape(rows * columns, channels).sum(axis=1).tolist(),
    }


def _places(tensor: Any, count: int) -> tuple[str, tuple[int, int, int]]:
    """Return where the entries of a layer's input come from: the kind, and the shape of the map."""
    vector = ("vector", (1, count, 1))
    operation, call = _behind_in_place(tensor)
    if not isinstance(operation, keras.layers.Flatten | keras.layers.Reshape):
        return vector
    (flattened,) = call.input_tensors
    shape = tuple(flattened.shape[1:])
    origin, _ = _behind_in_place(flattened)
    is_input = isinstance(origin, keras.layers.InputLayer)
    if is_input and len(shape) == 2:
        shape = (*shape, 1)
    if len(shape) != 3 or math.prod(shape) != count:
        return vector
    if getattr(operation, "data_format", "channels_last") != "channels_last":
        return vector
    return "pixels" if is_input else "features", shape


def _behind_in_place(tensor: Any) -> tuple[Any, Any]:
    operation, call = producer(tensor)
    while isinstance(operation, _IN_PLACE):
        operation, call = producer(call.input_tensors[0])
    return operation, call


def takes_pixels(examples: Examples) -> bool:
    """Return whether images are made of pixel values, as far as the examples tell.

    The page gives pixels from 0 to 255; a model trained on other values answers with nonsense.

    Args:
        examples: The examples that the export was verified with.
    """
    images = _real_inputs(examples)
    if images is None:
        return True
    is_image = images.ndim == 4 or images.shape[1:] == _DIGIT
    return not is_image or _are_pixels(images)


def _real_inputs(examples: Examples) -> np.ndarray | None:
    """Return the test inputs of a model with one input; `None` if they are made up."""
    if not examples.are_real or len(examples.test) != 1:
        return None
    (inputs,) = examples.test.values()
    return inputs


def _are_pictures(examples: Examples) -> bool:
    images = _real_inputs(examples)
    if images is None:
        return False
    is_picture = images.ndim == 3 or (images.ndim == 4 and images.shape[-1] in (1, 3))
    return is_picture and _are_pixels(images)


def _are_pixels(images: np.ndarray) -> bool:
    """Return whether values are from 0 to 255, and use that range; resizing makes fractions."""
    some = images[:_LOOKED_AT]
    return bool(np.min(some, initial=0) >= 0 and 127 < np.max(some, initial=0) <= 255)


def example_images(examples: Examples) -> list[dict[str, Any]]:
    """Return some test images, of as many classes as there is room for.

    Args:
        examples: The examples that the export was verified with.

    Returns:
        For each image, its `label` (a class number or `None`) and its `pixels` (bytes in base64).
        Empty if the examples are not images of pixels, or are made up.
    """
    if not _are_pictures(examples):
        return []  # of other values, a picture would show something else
    (images,) = examples.test.values()
    count = min(_EXAMPLES, _EXAMPLE_BYTES // math.prod(images.shape[1:]), len(images))
    chosen = _of_many_classes(examples.labels, len(images))[:count]
    return [
        {
            "label": None if examples.labels is None else int(examples.labels[index]),
            "pixels": base64.b64encode(image.round().astype(np.uint8).tobytes()).decode(),
        }
        for index, image in zip(chosen, images[chosen], strict=True)
    ]


def _of_many_classes(classes: np.ndarray | None, count: int) -> list[int]:
    """Return the indices in an order that begins with the first example of every class."""
    if classes is None:
        return list(range(count))
    _, first = np.unique(classes, return_index=True)
    return [*first.tolist(), *sorted(set(range(count)) - set(first.tolist()))]
