"""Models with dead weights, and the comparison of a model with its compacted form."""

import keras
import numpy as np
from keras import layers, tree

from export.compact import Compacted, compact
from keras_switcher.graphs import nodes, producer


def sparsify(model: keras.Model, seed: int = 0, density: float = 0.4) -> keras.Model:
    """Give a model random weights, with zeros: single ones, and whole rows and columns of kernels.

    Variances stay positive; some factors of batch normalisations are 0.
    """
    rng = np.random.default_rng(seed)
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            sparsify(layer, seed, density)
            continue
        for weight in layer.weights:
            values = rng.normal(size=weight.shape)
            if weight.name == "moving_variance":
                values = 0.5 + rng.random(weight.shape)
            elif weight.name == "gamma":
                values *= rng.random(weight.shape) < 0.9
            elif values.ndim > 1:
                fan_in = max(1.0, density * np.prod(weight.shape[:-1]))
                values *= (rng.random(weight.shape) < density) / np.sqrt(fan_in)
                values[..., rng.random(weight.shape[-1]) < 0.25] = 0
                values[..., rng.random(weight.shape[-2]) < 0.25, :] = 0
            elif rng.random() < 0.2:
                values[:] = 0
            weight.assign(values)
    return model


def batch(model: keras.Model, examples: int = 8, seed: int = 0):
    """Return random inputs for a model, in its structure."""
    rng = np.random.default_rng(seed)
    sequential = isinstance(model, keras.Sequential)
    given = model.inputs[0] if sequential else model.input
    return tree.map_structure(
        lambda tensor: (
            rng.integers(1, 4, (examples, *tensor.shape[1:])).astype(tensor.dtype)
            if "int" in tensor.dtype
            else rng.normal(size=(examples, *tensor.shape[1:])).astype(tensor.dtype)
        ),
        given,
    )


def predictions(model: keras.Model, inputs) -> list[np.ndarray]:
    return [np.asarray(each, "float32") for each in tree.flatten(model(inputs, training=False))]


def compacted_like(
    model: keras.Model, group: int = 1, atol: float = 1e-5, gather: bool = True
) -> Compacted:
    """Compact a model, and assert that inputs, outputs and predictions are the same.

    Also that the given model is what it was, and that the new one holds nothing of this project.
    """
    inputs = batch(model)
    before = predictions(model, inputs)
    weights = [np.array(w) for w in model.get_weights()]
    compacted = compact(model, group, gather=gather)
    new = compacted.model
    for given, value in zip(model.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(given, value)
    assert [tensor.shape for tensor in new.inputs] == [t.shape for t in model.inputs]
    assert [tensor.shape for tensor in new.outputs] == [t.shape for t in model.outputs]
    assert [tensor.dtype for tensor in new.outputs] == [t.dtype for t in model.outputs]
    assert [producer(t)[0].name for t in new.inputs] == [producer(t)[0].name for t in model.inputs]
    if not isinstance(model, keras.Sequential):
        assert new.output_names == model.output_names
        tree.assert_same_structure(new.input, model.input)
        tree.assert_same_structure(new.output, model.output)
    assert {layer.name for layer in new.layers} >= {layer.name for layer in model.layers}
    assert {type(layer) for layer in new.layers} - {layers.InputLayer} <= {
        type(layer) for layer in model.layers
    }
    for old, value in zip(before, predictions(new, inputs), strict=True):
        np.testing.assert_allclose(value, old, atol=atol, rtol=1e-5)
    return compacted


def units(compacted: Compacted) -> dict[str, int]:
    """Return the number of output features of each layer after compaction."""
    return {layer.name: layer.after.units for layer in compacted.layers}


def inputs(compacted: Compacted) -> dict[str, int]:
    """Return the number of input features of each layer after compaction."""
    return {layer.name: layer.after.inputs for layer in compacted.layers}


def gathers(model: keras.Model) -> list[np.ndarray]:
    """Return the indices of each gather in a model."""
    found = []
    for operation in model.operations:
        if type(operation).__name__ == "Take":
            found.append(nodes(operation)[0].arguments.args[1])
    return found


def dense_chain(*sizes: int, activation: str = "relu", seed: int = 0, use_bias: bool = True):
    """Return dense layers `dense1`, `dense2`, ... with weights without a zero.

    Args:
        *sizes: Number of inputs, then the units of each layer; the last has no activation.
        activation: Of the hidden layers.
        seed: Of the weights.
        use_bias: Whether the layers have biases.
    """
    rng = np.random.default_rng(seed)
    x = given = keras.Input((sizes[0],), name="features")
    last = len(sizes) - 1
    for number, size in enumerate(sizes[1:], start=1):
        function = activation if number < last else None
        x = layers.Dense(size, function, use_bias=use_bias, name=f"dense{number}")(x)
    model = keras.Model(given, x)
    for weight in model.weights:
        weight.assign(rng.choice([-1.0, 1.0], weight.shape) * (0.2 + rng.random(weight.shape)))
    return model


def edit(model: keras.Model, name: str, weight: str, where, value=0.0) -> None:
    """Set entries of a layer's weight, such as `edit(model, "dense1", "kernel", np.s_[:, 3])`."""
    variable = getattr(model.get_layer(name), weight)
    values = np.array(variable)
    values[where] = value
    variable.assign(values)
