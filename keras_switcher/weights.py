"""Files of weights that were saved from a model with plain `Dense` layers."""

from typing import Any

import h5py
import keras

from keras_switcher.layers import switched_layers


def holds_switched_layers(filepath: Any) -> bool:
    """Return whether a `.weights.h5` file was saved from a model with switched layers."""
    with h5py.File(filepath) as file:
        return file.visit(lambda name: True if name.endswith("/switches") else None) is not None


def load_dense_weights(model: keras.Model, filepath: Any, **kwargs: Any) -> None:
    """Load the weights of a model of `Dense` layers into the same model of switched ones.

    Args:
        model: A built `SwitchedModel`; its switches and switchers stay as they are.
        filepath: A `.weights.h5` file.
        **kwargs: Of `keras.Model.load_weights`.

    Raises:
        ValueError: If the file is of another model.
    """
    # Imported late: `convert` makes the model that calls this.
    from keras_switcher.convert import strip

    # Keras finds the weights of a layer by the name of its class. What `strip` returns has the
    # classes of the file's model, and its weights are in the order of this one's.
    plain = strip(model)
    layers = switched_layers(model)
    switching = [*model.alternation_state.weights, *model.switcher_variables]
    switching += [layer.switches for layer in layers]
    ours = [v for v in model.weights if not any(v is w for w in switching)]
    for source, target in zip(plain.weights, ours, strict=True):
        source.assign(target)
    plain.load_weights(filepath, **kwargs)
    for source, target in zip(plain.weights, ours, strict=True):
        target.assign(source)
