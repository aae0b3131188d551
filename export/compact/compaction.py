"""`compact`: a model without the parts that can't matter."""

import dataclasses
from typing import Any

import keras

from keras_switcher.checks import is_integer
from keras_switcher.copying import has_own
from keras_switcher.graphs import check_model, has_graph
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
        layers: Every layer that has weights, before and after, in the order of the model.
    """

    model: keras.Model
    layers: tuple[LayerChange, ...]


def compact(model: keras.Model, group: int = 1, *, gather: bool = True) -> Compacted:
    """Remove units, channels and inputs that the zeros of a model make useless.

    A unit is removed if only weights of 0 lead from it to an output of the model, or if its value
    is the same for every input, in which case the biases of the layers that read it take the value
    over. This continues through the layers before and after it. An entry of a vector that nothing
    reads, but that can't be removed where it is made, such as a pixel, is left out by one gather
    for all its readers.

    Whatever is not known to be safe to remove stays: everything read by a layer that mixes features
    (softmax, layer normalisation, attention, recurrent, nested and custom layers), and a constant
    that a convolution with zero padding reads, as the constant ends at the border. The model's
    inputs and outputs stay, and every layer keeps at least one feature. A layer that is called
    several times has the same features in all calls. Weights that only feed removed or constant
    features become 0.

    Predictions agree up to the rounding of float32 sums, which have fewer terms.

    Args:
        model: A built functional or Sequential model without `SwitchedDense` layers. It is not
            changed.
        group: Inputs of dense layers are removed in whole groups of this many consecutive ones (0
            to group-1, and so on), so that 1x4 or 1x16 blocks of zeros in their kernels stay
            aligned with blocks. The same holds for the units, and before a flatten the channels,
            that produce these inputs. A unit that only fills up its group has incoming weights of
            0, and nothing reads it.
        gather: Whether to leave out, by a gather, entries of a vector that can't be removed where
            they are made. It costs a little time, which a dense kernel with fewer inputs wins back;
            a sparse one does not, as zeros cost it nothing anyway.

    Returns:
        The new model, not compiled, and the table of its layers. Layer names and dtype policies are
        kept; layers of another shape have initialisers of zeros. A `Lambda` has the same function.

    Raises:
        TypeError: If `model` is not a Keras model, or `group` not an integer.
        ValueError: If the model is not built, or `group` is below 1.
        ExportError: If the model has switched layers, is not a graph of layers, or has a layer that
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
    check_model(model, "compact")
    if not is_integer(group):
        raise TypeError(f"`group` must be an integer. Received: group={group!r}")
    if group < 1:
        raise ValueError(f"`group` must be 1 or more. Received: group={group}")
    switched = switched_layers(model)
    if switched:
        raise ExportError(
            f"Model '{model.name}' has SwitchedDense layers: strip it first, by "
            "keras_switcher.strip(model). Received: the switched layers "
            f"{[layer.name for layer in switched]}"
        )
    if not has_graph(model) or has_own(model, "call"):
        raise ExportError(
            f"Model '{model.name}' can't be compacted: it is not a graph of layers, so nothing is "
            "known of what its code does with them. Build it with the functional API or as "
            f"Sequential. Received: a {type(model).__name__}"
        )
