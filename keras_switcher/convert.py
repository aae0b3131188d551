"""`switch` makes the dense layers of a model switched ones; `strip` makes plain Keras again."""

from collections.abc import Callable, Iterable
from typing import Any

import keras
from keras import ops
from keras.layers import Layer

from keras_switcher.layers import SwitchedDense, switched_layers
from keras_switcher.model import SwitchedModel
from keras_switcher.switchers import PACKAGE

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
    that hold layers in their attributes, are searched too.

    Args:
        model: A built Sequential, Functional or subclassed model. A subclassed one must be able to
            make a copy of itself by `from_config(get_config())`, and create its layers in
            `__init__`; the result wraps the copy.
        layers: Which `Dense` layers: `None` for all, a name, several names, or a function that
            takes a layer and returns whether to switch it.
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
    chosen = _chosen_layers(model, layers)

    def convert(layer: Layer) -> Layer | None:
        if id(layer) not in chosen:
            return None
        config = layer.get_config()
        config.pop("quantization_config", None)
        return SwitchedDense(
            **_deserialized(config), switcher=switcher, gate=gate, granularity=granularity
        )

    if _is_functional(model):
        copy = _converted_functional(model, convert)
        return SwitchedModel(copy.input, copy.output, name=model.name)
    network, converted = _converted_attributes(model, convert)
    switched = SwitchedNetwork(network, name=model.name)
    _build_like(switched, model)
    _copy_weights(model, network, converted)
    return switched


def strip(model: keras.Model) -> keras.Model:
    """Return a plain Keras model with the same predictions; nothing of this package is in it.

    Each `SwitchedDense` becomes a `Dense` whose kernel is the masked kernel: exact zeros where
    connections are off. The given model stays as it is.

    Args:
        model: A built model with `SwitchedDense` layers.

    Returns:
        A Functional model, or for a switched subclassed model one of its own class. It is not
        compiled.

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
        config = layer.get_config()
        for name in ("switcher", "gate", "granularity"):
            config.pop(name)
        return keras.layers.Dense(**_deserialized(config))

    if isinstance(model, SwitchedNetwork):
        network, converted = _converted_attributes(model.network, convert)
        _build_like(network, model)
        _copy_weights(model.network, network, converted)
        return network
    if _is_functional(model):
        copy = _converted_functional(model, convert)
        return keras.Model(copy.input, copy.output, name=model.name)
    network, converted = _converted_attributes(model, convert)
    _build_like(network, model)
    _copy_weights(model, network, converted)
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
            for path, layer in _walk(self.network)
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
        for path, layer in _walk(network):
            if path in config["switched"]:
                serialized = dict(config["switched"][path])
                serialized.pop("build_config", None)
                replacements[id(layer)] = keras.saving.deserialize_keras_object(serialized)
        _replace(network, replacements)
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


def _chosen_layers(model: keras.Model, layers: Choice) -> set[int]:
    """Return the identities of the layers to switch, after checking that each can be."""
    candidates = [layer for _, layer in _walk(model) if isinstance(layer, keras.layers.Dense)]
    names = {layer.name for layer in candidates}
    if layers is None:
        chosen = [layer for layer in candidates if type(layer) is keras.layers.Dense]
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
        others = sorted({type(layer).__name__ for _, layer in _walk(model)})
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


def _converted_functional(
    model: keras.Model, convert: Callable[[Layer], Layer | None]
) -> keras.Model:
    """Clone a graph of layers, with its weights, replacing the layers that `convert` replaces."""
    # A plain graph over the same layers: a compiled or custom model would compile its clone.
    if isinstance(model, keras.Sequential):
        plain = keras.Model(model.inputs[0], model.outputs[0])
    else:
        plain = keras.Model(model.input, model.output)
    pairs: list[tuple[Layer, Layer]] = []
    nested: list[tuple[Layer, Layer, dict[int, Layer]]] = []

    def clone(layer: Layer) -> Layer:
        if not isinstance(layer, Layer):
            # An operation on tensors, such as `x * 2`: no layer, and without weights.
            return type(layer).from_config(layer.get_config())
        new = convert(layer)
        if new is None and any(convert(inner) for _, inner in _walk(layer)):
            new, converted = _converted_attributes(layer, convert)
            nested.append((layer, new, converted))
            return new
        if new is None:
            new = type(layer).from_config(layer.get_config())
        pairs.append((layer, new))
        return new

    copy = keras.models.clone_model(plain, clone_function=clone, recursive=True)
    for old, new in pairs:
        if new.built or not old.built:
            _assign(old, new)
    for old, new, converted in nested:
        _copy_weights(old, new, converted)
    return copy


def _converted_attributes(
    layer: Layer, convert: Callable[[Layer], Layer | None]
) -> tuple[Layer, dict[int, Layer]]:
    """Copy a layer by its configuration and replace layers that stand in its attributes.

    Returns:
        The copy, not built yet, and which layer of it stands for which of the original, by
        the original's identity.
    """
    try:
        copy = type(layer).from_config(layer.get_config())
    except (NotImplementedError, TypeError) as error:
        raise ValueError(
            f"Can't copy '{layer.name}', a {type(layer).__name__}: it does not come back from its "
            "own configuration. Implement get_config() so that from_config(get_config()) makes "
            f"the same model. The error was: {error}"
        ) from error
    originals, copies = dict(_walk(layer)), dict(_walk(copy))
    replacements: dict[int, Layer] = {}
    for path, original in originals.items():
        new = convert(original)
        if new is None:
            continue
        if path not in copies:
            raise ValueError(
                f"Can't reach layer '{original.name}' at '{path}' in a new {type(layer).__name__}: "
                "it is not created in __init__. Create it there, or leave it out by `layers`."
            )
        # A layer shared by two attributes is replaced by one layer.
        replacements.setdefault(id(copies[path]), new)
    _replace(copy, replacements)
    copies = dict(_walk(copy))
    return copy, {id(old): copies[path] for path, old in originals.items() if path in copies}


def _build_like(copy: keras.Model, model: keras.Model) -> None:
    """Build a copy of a subclassed model for the inputs that the model was built for."""
    copy.build_from_config(model.get_build_config())
    # Keras builds the layers inside, and leaves this mark to whoever loads a file.
    copy.built = True


def _own_variables(layer: Layer) -> list[Any]:
    """Return the weights of a layer that belong to none of the layers inside it."""
    inner = {id(v) for _, child in _children(layer) for v in child.weights}
    return [v for v in layer.weights if id(v) not in inner]


def _assign(old: Layer, new: Layer) -> None:
    """Copy the weights of one layer, masked if it was switched and is not any more."""
    if isinstance(old, keras.layers.Dense) and type(old) is not type(new):
        kernel = old.masked_kernel() if isinstance(old, SwitchedDense) else old.kernel
        new.kernel.assign(ops.cast(kernel, new.kernel.dtype))
        if old.bias is not None:
            new.bias.assign(old.bias)
        return
    new.set_weights(old.get_weights())


def _copy_weights(old: Layer, new: Layer, converted: dict[int, Layer]) -> None:
    """Copy all weights between two layers whose attributes correspond."""
    for _, original in _walk(old):
        counterpart = converted.get(id(original))
        if counterpart is None or not original.built:
            continue
        if isinstance(original, keras.layers.Dense) and type(original) is not type(counterpart):
            _assign(original, counterpart)
            continue
        for source, target in zip(
            _own_variables(original), _own_variables(counterpart), strict=True
        ):
            target.assign(source)
    for source, target in zip(_own_variables(old), _own_variables(new), strict=True):
        target.assign(source)


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


def _entries(layer: Layer) -> list[tuple[Any, Any, str, Layer]]:
    """Return where layers stand in a layer's attributes: (container, key, path, layer)."""
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


def _is_graph(layer: Layer) -> bool:
    """Return whether a layer is a model whose layers stand in no attribute."""
    return isinstance(layer, keras.Model) and (
        isinstance(layer, keras.Sequential) or bool(getattr(layer, "inputs", None))
    )


def _children(layer: Layer) -> list[tuple[str, Layer]]:
    """Return the layers directly inside a layer, each with its path."""
    if _is_graph(layer):
        return [(f"layers/{index}", child) for index, child in enumerate(layer.layers)]
    return [(path, child) for _, _, path, child in _entries(layer)]


def _walk(layer: Layer) -> list[tuple[str, Layer]]:
    """Return all layers inside a layer, at any depth, with their paths."""
    found, seen = [], {id(layer)}
    stack = [("", layer)]
    while stack:
        prefix, current = stack.pop()
        for path, child in _children(current):
            if id(child) in seen:
                continue
            seen.add(id(child))
            full = f"{prefix}/{path}" if prefix else path
            found.append((full, child))
            if not isinstance(child, SwitchedDense):
                stack.append((full, child))
    return found


def _replace(layer: Layer, replacements: dict[int, Layer]) -> None:
    """Put other layers in the place of some that stand in attributes, at any depth."""
    replacements = dict(replacements)

    def has_replaced(parent: Layer) -> bool:
        return any(id(child) in replacements for _, child in _walk(parent))

    def clone(inner: Layer) -> Layer:
        if id(inner) in replacements or not isinstance(inner, Layer) or not has_replaced(inner):
            return replacements.get(id(inner), inner)
        # The layers of a graph are built, and take no other layers in their attributes any more.
        return _converted_attributes(inner, lambda child: replacements.get(id(child)))[0]

    # Children come after their parents: a nested model may have a nested model replaced.
    for _, child in reversed(_walk(layer)):
        if _is_graph(child) and has_replaced(child):
            replacements[id(child)] = keras.models.clone_model(child, clone_function=clone)
    # What is in a replaced model stays as it is: its layers may be built.
    replaced = {id(c) for _, m in _walk(layer) if id(m) in replacements for _, c in _walk(m)}
    for parent in [layer, *(child for _, child in _walk(layer) if id(child) not in replaced)]:
        for container, key, path, old in _entries(parent):
            new = replacements.get(id(old))
            if new is None:
                continue
            if isinstance(container, tuple):
                raise ValueError(
                    f"Can't replace layer '{old.name}': it stands in a tuple, at '{path}' of "
                    f"'{parent.name}'. Hold it in a list."
                )
            if isinstance(container, Layer):
                setattr(container, key, new)
            else:
                container[key] = new
                parent._tracker.track(new)
            # Keras keeps the replaced layer in the list of sublayers; there is no public way out.
            if any(child is old for child in parent._layers):
                parent._tracker.untrack(old)
