"""`compact`: a model without what can't matter."""

import dataclasses
from typing import Any

import keras

from keras_switcher.layers import switched_layers

from ..errors import ExportError
from .analysis import Analysis
from .changes import LayerChange, changes
from .graph import Graph
from .rebuild import rebuild


@dataclasses.dataclass(frozen=True)
class Compacted:
    """What `compact` returns.

    Args:
        model: A functional Keras model with the inputs, outputs and predictions of the given one.
        layers: Every layer with weights before and after, in the order of the model.
    """

    model: keras.Model
    layers: tuple[LayerChange, ...]


def compact(model: keras.Model, group: int = 1, *, gather: bool = True) -> Compacted:
    """Remove units, channels and inputs that the zeros of a model make useless.

    A unit goes if no weight but 0 leads from it to an output of the model, or if its value is the
    same whatever the input is: the biases of the layers that read it take the value over. This
    goes on through the layers before and behind. An entry of a vector that nobody reads, and that
    can't go where it is made, such as a pixel, is left out by one gather for all its readers.

    What is not known to be safe stays: all that a layer reads which mixes features (softmax, layer
    normalisation, attention, recurrent, nested and custom layers), and a constant that a
    convolution sees end at a border padded with zeros. The model's inputs and outputs stay, and
    every layer keeps one feature at least. A layer that is called several times has the same
    features in all calls. Weights that only feed removed or constant features become 0.

    Predictions agree to the rounding of float32 sums that run over fewer terms.

    Args:
        model: A built functional or Sequential model without `SwitchedDense` layers. It stays as it
            is.
        group: Inputs of dense layers go in whole groups of so many consecutive ones (0 to group-1,
            and so on), so that 1x4 or 1x16 blocks of zeros in their kernels stay where blocks are;
            so do the units, and behind a flatten the channels, that make them. A unit that only
            fills up its group has incoming weights of 0, and is read by nobody.
        gather: Leave out, by a gather, entries of a vector that can't go where they are made. It
            costs a little time, which a dense kernel with fewer inputs wins back and a sparse one,
            to which zeros cost nothing anyway, does not.

    Returns:
        The new model, not compiled, and the table of its layers. Layer names and dtype policies are
        kept; layers of another shape have initialisers of zeros. A layer without weights whose code
        can't be copied, such as a `Lambda`, is in both models.

    Raises:
        TypeError: If `model` is not a Keras model, or `group` not an integer.
        ValueError: If the model is not built, or `group` is below 1.
        ExportError: If the model has switched layers, is no graph of layers, or has a layer that
            can't be copied.

    Example:

    ```python
    compacted = compact(keras_switcher.strip(sparse))
    compacted.model.save("small.keras")
    ```
    """
    _check(model, group)
    analysis = Analysis.of(Graph.of(model, group, gather))
    new, operations = rebuild(model, analysis)
    return Compacted(new, tuple(changes(analysis, operations)))


def _check(model: Any, group: Any) -> None:
    if not isinstance(model, keras.Model):
        raise TypeError(
            f"compact expects a keras.Model. Received: {model!r} (of type {type(model).__name__})"
        )
    if isinstance(group, bool) or not isinstance(group, int):
        raise TypeError(f"`group` must be an integer. Received: group={group!r}")
    if group < 1:
        raise ValueError(f"`group` must be 1 or more. Received: group={group}")
    if not model.built:
        raise ValueError(
            f"Model '{model.name}' is not built, so its kernels do not exist yet. Give it an Input "
            "layer, or call it on a batch of data first. Received: an unbuilt "
            f"{type(model).__name__}"
        )
    switched = switched_layers(model)
    if switched:
        raise ExportError(
            f"Model '{model.name}' has SwitchedDense layers: strip it first, by "
            "keras_switcher.strip(model). Received: the switched layers "
            f"{[layer.name for layer in switched]}"
        )
    if not (getattr(model, "inputs", None) and getattr(model, "outputs", None)):
        raise ExportError(
            f"Model '{model.name}' can't be compacted: it is not a graph of layers, so nothing is "
            "known of what its code does with them. Build it with the functional API or as "
            f"Sequential. Received: a {type(model).__name__}"
        )
