"""`switch` makes the dense layers of a model switched ones; `strip` makes plain Keras again."""

import logging
from collections.abc import Callable, Iterable
from typing import Any

import keras
from keras.layers import Layer

from keras_switcher.copying import (
    build_like,
    converted_attributes,
    converted_functional,
    copy_weights,
    replace,
    walk,
)
from keras_switcher.features import output_layers
from keras_switcher.functional import functional_base
from keras_switcher.granularity import get as get_granularity
from keras_switcher.layers import SwitchedDense, switched_layers
from keras_switcher.model import SwitchedModel
from keras_switcher.switchers import PACKAGE

logger = logging.getLogger(__name__)

Choice = str | Iterable[str] | Callable[[Layer], bool] | None


def switch(
    model: keras.Model,
    layers: Choice = None,
    *,
    switcher: Any = None,
    gate: Any = "step",
    granularity: Any = "connection",
) -> SwitchedModel:
    """Return a copy of a model in which `Dense` layers are `SwitchedDense` layers.

    Weights, layer names, inputs and outputs are kept, and all switches are on: the predictions are
    the same. The given model stays as it is. Shared layers stay shared; nested models, and layers
    that hold layers in their attributes, are searched too. What the class of the model has of its
    own for training, such as `compute_loss`, is not kept: a warning names it.

    Args:
        model: A built Sequential, Functional or subclassed model. A subclassed one must be able to
            make a copy of itself by `from_config(get_config())`, and create its layers in
            `__init__`; the result wraps the copy.
        layers: Which `Dense` layers: `None` for all, a name, several names, or a function that
            takes a layer and returns whether to switch it. With granularity `unit`, all means all
            but the output layers of a graph: a unit of theirs is a class or another output.
        switcher: As for `SwitchedDense`.
        gate: As for `SwitchedDense`.
        granularity: As for `SwitchedDense`.

    Returns:
        The switched model, not compiled.

    Raises:
        ValueError: If the model is not built, has no such layer, or a chosen layer can't be
            switched; the message says why.
        TypeError: If `model` is not a Keras model.

    Example:

    ```python
    sparse = keras_switcher.switch(model, granularity="block4")
    ```
    """
    _check_model(model, "switch")
    kept = output_layers(model) if get_granularity(granularity).size is None else []
    chosen = _chosen_layers(model, layers, kept)
    _warn_of_own_code(model)

    def convert(layer: Layer) -> Layer | None:
        if id(layer) not in chosen:
            return None
        config = layer.get_config()
        config.pop("quantization_config", None)
        return SwitchedDense(
            **_deserialized(config), switcher=switcher, gate=gate, granularity=granularity
        )

    if _is_functional(model):
        copy = converted_functional(model, convert)
        return SwitchedModel(copy.input, copy.output, name=model.name)
    network, converted = converted_attributes(model, convert)
    switched = SwitchedNetwork(network, name=model.name)
    build_like(switched, model)
    copy_weights(model, network, converted)
    return switched


def strip(model: keras.Model) -> keras.Model:
    """Return a plain Keras model with the same predictions; nothing of this package is in it.

    Each `SwitchedDense` becomes a `Dense` whose kernel is the masked kernel: exact zeros where
    connections are off. The given model stays as it is.

    Args:
        model: A built model with `SwitchedDense` layers.

    Returns:
        A Functional model, or for a switched subclassed model one of its own class. It is not
        compiled. Of a subclass of `SwitchedModel` with a `call` of its own there is no plain model:
        it is of that class again, and predicts, but can't be compiled.

    Raises:
        ValueError: If the model is not built or has no `SwitchedDense` layer.
        TypeError: If `model` is not a Keras model.

    Example:

    ```python
    keras_switcher.strip(sparse).save("small.keras")
    ```
    """
    _check_model(model, "strip")
    if not switched_layers(model):
        raise ValueError(
            f"Model '{model.name}' has no SwitchedDense layer: there is nothing to strip. "
            f"Received: layers {[layer.name for layer in model.layers]}"
        )

    def convert(layer: Layer) -> Layer | None:
        if not isinstance(layer, SwitchedDense):
            return None
        # A subclass may have arguments of its own.
        known = keras.layers.Dense(1).get_config()
        config = {name: value for name, value in layer.get_config().items() if name in known}
        return keras.layers.Dense(**_deserialized(config))

    if _is_functional(model):
        copy = converted_functional(model, convert)
        return keras.Model(copy.input, copy.output, name=model.name)
    source = model.network if isinstance(model, SwitchedNetwork) else model
    network, converted = converted_attributes(source, convert)
    build_like(network, model)
    copy_weights(source, network, converted)
    return network


@keras.saving.register_keras_serializable(PACKAGE)
class SwitchedNetwork(SwitchedModel):
    """A switched model around a subclassed one, whose own code makes the forward pass.

    `switch` makes it; the model is at `network`. To load a saved one, the class of the network
    must be known to Keras, as for every custom class.

    Args:
        network: The model, with `SwitchedDense` layers in its attributes.
        **kwargs: Of `keras.Model`.
    """

    def __init__(self, network: keras.Model, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.network = network

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        return self.network(inputs)

    def get_config(self) -> dict[str, Any]:
        """Return the network's configuration and that of each of its switched layers by path."""
        switched = {
            path: keras.saving.serialize_keras_object(layer)
            for path, layer in walk(self.network)
            if isinstance(layer, SwitchedDense)
        }
        return {
            "name": self.name,
            "network": keras.saving.serialize_keras_object(self.network),
            "switched": switched,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "SwitchedNetwork":
        """Make the network anew and put the switched layers at their paths."""
        network_config = {k: v for k, v in config["network"].items() if k != "build_config"}
        network = keras.saving.deserialize_keras_object(network_config, custom_objects)
        replacements = {}
        for path, layer in walk(network):
            if path in config["switched"]:
                serialized = dict(config["switched"][path])
                serialized.pop("build_config", None)
                replacements[id(layer)] = keras.saving.deserialize_keras_object(serialized)
        replace(network, replacements)
        return cls(network, name=config["name"])


def _check_model(model: Any, what: str) -> None:
    if not isinstance(model, keras.Model):
        raise TypeError(
            f"keras_switcher.{what} expects a keras.Model. Received: {model!r} (of type "
            f"{type(model).__name__})"
        )
    if not model.built:
        raise ValueError(
            f"Model '{model.name}' is not built, so its kernels do not exist yet. Give it an Input "
            "layer, or call it on a batch of data first. Received: an unbuilt "
            f"{type(model).__name__}"
        )


def _is_functional(model: keras.Model) -> bool:
    """Return whether the model is a graph of layers: Functional, or a built Sequential."""
    return bool(getattr(model, "inputs", None)) and bool(getattr(model, "outputs", None))


def _warn_of_own_code(model: keras.Model) -> None:
    """Say what of a model's class the switched model will not do."""
    classes = (keras.Model, keras.Sequential, functional_base(), SwitchedModel)
    names = ["train_step", "test_step", "predict_step", "compute_loss", "compute_metrics"]
    remedy = "with SwitchedDense layers in it"
    if _is_functional(model):
        names.append("call")
        remedy = "made of the inputs and outputs of what switch() returns"
    own = [
        name
        for name in names
        if all(getattr(type(model), name) is not getattr(cls, name) for cls in classes)
    ]
    if own:
        logger.warning(
            "The switched model does not use what %s has of its own: %s. Put it into a subclass of "
            "keras_switcher.SwitchedModel, %s.",
            type(model).__name__,
            ", ".join(own),
            remedy,
        )


def _chosen_layers(model: keras.Model, layers: Choice, kept: list[Layer]) -> set[int]:
    """Return the identities of the layers to switch, after checking that each can be.

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
    elif callable(layers):
        chosen = [layer for layer in candidates if layers(layer)]
    else:
        wanted = {layers} if isinstance(layers, str) else set(layers)
        if not wanted <= names:
            raise ValueError(
                f"Model '{model.name}' has no dense layer named {sorted(wanted - names)}. Its "
                f"dense layers are {sorted(names)}. Received: layers={layers!r}"
            )
        chosen = [layer for layer in candidates if layer.name in wanted]
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
        reason = "LoRA is enabled on it; merge the LoRA weights by saving and loading it first"
    elif layer.quantization_mode is not None:
        reason = f"it is quantised ({layer.quantization_mode}); switch the float model"
    elif not layer.built:
        reason = "it is not built; call the model on a batch of data first"
    if reason:
        raise ValueError(f"Can't switch layer '{layer.name}': {reason}.")


def _deserialized(config: dict[str, Any]) -> dict[str, Any]:
    """Return a layer's configuration with its dtype policy as an object."""
    if isinstance(config.get("dtype"), dict):
        return {**config, "dtype": keras.saving.deserialize_keras_object(config["dtype"])}
    return config
