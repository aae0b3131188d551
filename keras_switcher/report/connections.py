"""Which connections of a model's switched layers are on, and what that leaves of their units."""

import dataclasses
import math
from typing import Any

import keras
import numpy as np
from keras import layers

from keras_switcher.graphs import nodes, producer
from keras_switcher.layers import SwitchedDense, switched_layers

# Layers that leave each pixel in its place, and layers that leave each unit in its place.
_PIXELWISE = (
    layers.Rescaling,
    layers.Normalization,
    layers.Flatten,
    layers.Reshape,
    layers.Dropout,
    layers.GaussianNoise,
)
_UNITWISE = (layers.Dropout, layers.Activation, layers.ReLU, layers.LeakyReLU)
# Activations in which each unit affects the outputs of all units.
_MIXING = (
    keras.activations.glu,
    keras.activations.log_softmax,
    keras.activations.softmax,
    keras.activations.sparsemax,
)


@dataclasses.dataclass(frozen=True)
class Connections:
    """Which connections of a switched layer are on, and what that leaves of its units.

    Args:
        name: The layer's name.
        mask: Whether each connection is on, boolean of shape (inputs, units).
        image_shape: Height, width and channels if the inputs are the pixels of the model's input.
        unread: Per unit, whether no connection that reads it is on; `None` if that can't be told.
    """

    name: str
    mask: np.ndarray
    image_shape: tuple[int, int, int] | None
    unread: np.ndarray | None

    @property
    def without_input(self) -> np.ndarray:
        """Per unit, whether none of its own connections is on."""
        return np.logical_not(self.mask.any(axis=0))

    @property
    def dead(self) -> np.ndarray:
        """Per unit, whether no input reaches an output through it, as far as can be told."""
        return self.without_input if self.unread is None else self.without_input | self.unread

    @property
    def whole_units(self) -> bool:
        """Whether each unit's connections are all on or all off."""
        return bool((self.mask == self.mask[0]).all())


def connections_of(model: keras.Model) -> list[Connections]:
    """Return the connections of every switched layer, in the order of `switched_layers`.

    Args:
        model: A model with `SwitchedDense` layers. For layers inside nested or subclassed models,
            the masks are known, but not what they read or what reads them.
    """
    switched = switched_layers(model)
    masks = {id(layer): _mask(layer) for layer in switched}
    result = []
    for layer in switched:
        readers = _readers(model, layer)
        unread = None
        if readers is not None:
            read = np.stack([masks[id(reader)].any(axis=1) for reader in readers])
            unread = np.logical_not(read.any(axis=0))
        image_shape = _image_shape(model, layer)
        result.append(Connections(layer.name, masks[id(layer)], image_shape, unread))
    return result


def _mask(layer: SwitchedDense) -> np.ndarray:
    switches = keras.ops.convert_to_numpy(layer.expanded_switches())
    return np.broadcast_to(switches > 0, tuple(layer.kernel.shape))


def _operations(model: keras.Model) -> list[Any]:
    # Bare operations, such as `keras.ops.relu(x)`, are not among a graph's layers. A Sequential
    # model has no such operations.
    return list(getattr(model, "operations", model.layers))


def _tensors(operation: Any, which: str) -> list[Any] | None:
    """Return an operation's symbolic inputs or outputs; `None` unless it has one set of them."""
    # Models have inner tensors of their own, which are not those they are called on. For an
    # operation that is called several times, Keras returns the tensors of the first call; only its
    # nodes show the others.
    if isinstance(operation, keras.Model) or len(nodes(operation)) != 1:
        return None
    return keras.tree.flatten(getattr(operation, which))


def _contains(tensors: list[Any] | None, tensor: Any) -> bool:
    return any(tensor is other for other in tensors or ())


def _image_shape(model: keras.Model, layer: SwitchedDense) -> tuple[int, int, int] | None:
    """Return the image's shape if the layer reads the pixels of the model's input directly."""
    calls = nodes(layer)
    while len(calls) == 1 and len(calls[0].input_tensors) == 1:
        (tensor,) = calls[0].input_tensors
        if _contains(getattr(model, "inputs", None), tensor):
            shape = tuple(tensor.shape[1:])
            shape = (*shape, 1) if len(shape) == 2 else shape
            if len(shape) != 3 or None in shape or math.prod(shape) != layer.kernel.shape[0]:
                return None
            return shape
        operation, _ = producer(tensor)
        if not isinstance(operation, _PIXELWISE):
            return None
        calls = nodes(operation)
    return None


def _readers(model: keras.Model, layer: SwitchedDense) -> list[SwitchedDense] | None:
    """Return the switched layers that read a layer's units; `None` if others may read them, too."""
    operations = _operations(model)
    if layer not in operations or layer.activation in _MIXING:
        return None
    if any(_tensors(other, "input") is None for other in operations):
        return None
    found: list[SwitchedDense] = []
    tensors = list(_tensors(layer, "output") or ())
    while tensors:
        tensor = tensors.pop()
        if _contains(model.outputs, tensor):
            return None
        for other in operations:
            if not _contains(_tensors(other, "input"), tensor):
                continue
            if isinstance(other, SwitchedDense):
                found.append(other)
            elif isinstance(other, _UNITWISE) and getattr(other, "activation", None) not in _MIXING:
                tensors += _tensors(other, "output") or ()
            else:
                return None
    return found or None
