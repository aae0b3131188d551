"""`switch` gives a model switched dense layers; `strip` makes it a plain Keras model again."""

import logging
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import keras
from keras.layers import Layer

from keras_switcher.copying import (
    SwitchedNetwork,
    build_like,
    converted_attributes,
    converted_functional,
    frozen_like,
    has_own,
)
from keras_switcher.granularity import get as get_granularity
from keras_switcher.graphs import check_model, has_graph, output_layers
from keras_switcher.layers import SwitchedDense, switched_layers
from keras_switcher.model import SwitchedModel
from keras_switcher.nesting import shared_layers, walk
from keras_switcher.recreating import copied
from keras_switcher.state import copy_weights

logger = logging.getLogger(__name__)

Choice: TypeAlias = "str | Layer | Iterable[str | Layer] | Callable[[Layer], bool] | None"


def switch(
    model: keras.Model,
    layers: Choice = None,
    *,
    switcher: Any = None,
    gate: Any = "step",
    granularity: Any = "connection",
) -> SwitchedModel:
    """Return a copy of a model with `Dense` layers replaced by `SwitchedDense` layers.

    The copy keeps the weights, layer names, inputs and outputs. All its switches are on, so its
    predictions are the same. The given model is not changed. Shared layers stay shared. Nested
    models, and layers that hold other layers in their attributes, are searched too. If the model's
    class has code of its own for training, such as `compute_loss`, the copy does not keep it, and a
    warning names it.

    Args:
        model: A built Sequential, Functional or subclassed model. A subclassed model must create
            its layers in `__init__`, and `from_config(get_config())` must make a copy of it; the
            result wraps that copy.
        layers: The `Dense` layers to switch: `None` for all, a layer or its name, several of them,
            or a function that takes a layer and returns whether to switch it. With granularity
            `unit`, `None` leaves out the output layers of a graph, as their units are classes or
            other outputs.
        switcher: As for `SwitchedDense`.
        gate: As for `SwitchedDense`.
        granularity: As for `SwitchedDense`.

    Returns:
        The switched model, not compiled.

    Raises:
        ValueError: If the model is not built or has no such layer, or if a chosen layer can't be
            switched; the message says why.
        TypeError: If `model` is not a Keras model, or `layers` is of another type.

    Example:

    ```python
    sparse = keras_switcher.switch(model, granularity="block4")
    ```
    """
    check_model(model, "keras_switcher.switch")
    if isinstance(model, SwitchedNetwork):
        model = model.network
    kept = output_layers(model) if get_granularity(granularity).size is None else []
    chosen = _chosen_layers(model, layers, kept)
    _warn_of_own_code(model)
    if has_graph(model):
        _warn_of_shared(model)
    activations: dict[int, Layer] = {}

    def convert(layer: Layer) -> Layer | None:
        if id(layer) not in chosen:
            # One inside another layer, whose configuration knows it as a plain one.
            return copied(layer) if isinstance(layer, SwitchedDense) else None
        return SwitchedDense(
            **_arguments(layer, activations), switcher=switcher, gate=gate, granularity=granularity
        )

    if has_graph(model):
        copy = converted_functional(model, convert)
        switched = SwitchedModel(copy.input, copy.output, name=model.name)
        # Not that of this moment: it decides whether a loss is scaled.
        switched.dtype_policy = model.dtype_policy
        return frozen_like(model, switched)
    network = converted_attributes(model, convert)
    switched = SwitchedNetwork(network, name=model.name)
    switched.dtype_policy = model.dtype_policy
    build_like(switched, model, model, network)
    copy_weights(model, network)
    return frozen_like(model, switched)


def strip(model: keras.Model) -> keras.Model:
    """Return a plain Keras model with the same predictions, independent of this package.

    Each `SwitchedDense` becomes a `Dense` whose kernel is the masked kernel, with exact zeros where
    connections are off. The given model is not changed. Code of a layer that reads the `kernel` of
    a dense layer, as with tied weights, gets this one, too, and not the unmasked one of before: the
    predictions are the same only if it had read `masked_kernel()`.

    Args:
        model: A built model with `SwitchedDense` layers.

    Returns:
        A Functional model or, for a switched subclassed model, an instance of its own class. It is
        not compiled. A subclass of `SwitchedModel` with its own `call` has no plain counterpart:
        the result is of that class again and can predict, but it can't be compiled.

    Raises:
        ValueError: If the model is not built, has no `SwitchedDense` layer, or is a graph of a
            class with its own `call`.
        TypeError: If `model` is not a Keras model.

    Example:

    ```python
    keras_switcher.strip(sparse).save("small.keras")
    ```
    """
    check_model(model, "keras_switcher.strip")
    if not switched_layers(model):
        raise ValueError(
            f"Model '{model.name}' has no SwitchedDense layer: there is nothing to strip. "
            f"Received: layers {[layer.name for layer in model.layers]}"
        )

    activations: dict[int, Layer] = {}

    def convert(layer: Layer) -> Layer | None:
        if not isinstance(layer, SwitchedDense):
            return None
        return keras.layers.Dense(**_arguments(layer, activations))

    if has_graph(model):
        copy = converted_functional(model, convert)
        plain = keras.Model(copy.input, copy.output, name=model.name)
        plain.dtype_policy = model.dtype_policy
        return frozen_like(model, plain)
    source = model
    while isinstance(source, SwitchedNetwork):
        source = source.network
    network = converted_attributes(source, convert)
    build_like(network, model, source, network)
    copy_weights(source, network)
    return network


def _warn_of_own_code(model: keras.Model) -> None:
    """Warn about code of a model's class that the switched model will not use."""
    names = ("train_step", "test_step", "predict_step", "compute_loss", "compute_metrics")
    remedy = "with SwitchedDense layers in it"
    if has_graph(model):
        remedy = "made of the inputs and outputs of what switch() returns"
    if own := [name for name in names if has_own(model, name)]:
        logger.warning(
            "The switched model does not use what %s has of its own: %s. Put it into a subclass of "
            "keras_switcher.SwitchedModel, %s. There, a train_step has to return "
            "super().train_step(data).",
            type(model).__name__,
            ", ".join(own),
            remedy,
        )


def _warn_of_shared(model: keras.Model) -> None:
    """Warn about layers in several layers, whose sharing no file of Keras holds."""
    if shared := [layer.name for layer in shared_layers(model) if layer.weights]:
        logger.warning(
            "Keras can save, but not load, a model whose layer stands in several other layers, "
            "such as '%s' here. Save the weights alone, by save_weights(), and make the model by "
            "its code again.",
            shared[0],
        )


def _chosen_layers(model: keras.Model, layers: Choice, kept: list[Layer]) -> set[int]:
    """Return the ids of the layers to switch, after checking that each can be switched.

    Args:
        model: The model.
        layers: The user's choice.
        kept: The layers that `None` leaves out.
    """
    candidates = [layer for _, layer in walk(model) if isinstance(layer, keras.layers.Dense)]
    names = {layer.name for layer in candidates}
    if layers is None:
        out = {id(layer) for layer in kept}
        plain = [layer for layer in candidates if type(layer) is keras.layers.Dense]
        chosen = [layer for layer in plain if id(layer) not in out]
        if plain and not chosen:
            raise ValueError(
                f"The only Dense layers of model '{model.name}' are its output layers, whose units "
                "are its outputs: with granularity 'unit' there is nothing to switch off. Take "
                f"another granularity, or name them by `layers`. Received: {sorted(names)}"
            )
    elif isinstance(layers, (type, bytes)) or not (
        isinstance(layers, (str, Layer, Iterable)) or callable(layers)
    ):
        raise TypeError(
            "Expected `layers` to be None, a layer or its name, several of them, or a function "
            f"that takes a layer. Received: layers={layers!r}"
        )
    elif callable(layers) and not isinstance(layers, Layer):
        chosen = [layer for layer in candidates if layers(layer)]
    else:
        listed = [layers] if isinstance(layers, (str, Layer)) else list(layers)
        ids = {id(layer) for layer in candidates}
        missing = [each for each in listed if id(each) not in ids and each not in names]
        if missing:
            raise ValueError(
                f"Model '{model.name}' has no dense layer {missing[0]!r}. Its dense layers are "
                f"{sorted(names)}. Received: layers={layers!r}"
            )
        wanted = {each if isinstance(each, str) else id(each) for each in listed}
        chosen = [la for la in candidates if la.name in wanted or id(la) in wanted]
    for layer in chosen:
        _check_switchable(layer)
    if not chosen:
        others = sorted({type(layer).__name__ for _, layer in walk(model)})
        raise ValueError(
            f"Found no Dense layer to switch in model '{model.name}': its dense layers are "
            f"{sorted(names)}, and it has layers of the types {others}. Received: layers={layers!r}"
        )
    return {id(layer) for layer in chosen}


def _check_switchable(layer: keras.layers.Dense) -> None:
    reason = None
    if isinstance(layer, SwitchedDense):
        reason = "it is switched already"
    elif type(layer) is not keras.layers.Dense:
        reason = (
            f"it is a {type(layer).__name__}, a subclass of Dense with code of its own; use "
            "SwitchedDense in the model instead"
        )
    elif layer.lora_enabled:
        reason = (
            "LoRA is enabled on it; save_weights() merges its weights, for load_weights() of the "
            "same model without LoRA"
        )
    elif layer.quantization_mode is not None:
        reason = f"it is quantised ({layer.quantization_mode}); switch the float model"
    elif not layer.built:
        reason = "it is not built; call the model on a batch of data first"
    if reason:
        raise ValueError(f"Can't switch layer '{layer.name}': {reason}.")


def _arguments(layer: keras.layers.Dense, activations: dict[int, Layer]) -> dict[str, Any]:
    """Return the arguments that make another `Dense` like a layer.

    They are the layer's own objects, as its configuration would need each function and class in it
    to be registered.

    Args:
        layer: The layer.
        activations: Copies of activations that are layers, by the id of the original; several
            layers may share one.
    """
    names = ["name", "trainable", "units", "use_bias", "activity_regularizer"]
    for part in ("kernel", "bias"):
        names += [f"{part}_{kind}" for kind in ("initializer", "regularizer", "constraint")]
    activation = layer.activation
    if isinstance(activation, Layer):
        # It may have weights.
        if id(activation) not in activations:
            activations[id(activation)] = copied(activation)
        activation = activations[id(activation)]
    return {
        **{name: getattr(layer, name) for name in names},
        "dtype": layer.dtype_policy,
        "activation": activation,
    }
