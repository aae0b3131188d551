"""Copies of models in which some layers are replaced by others, with their weights."""

import contextlib
import functools
import tempfile
from collections.abc import Callable
from typing import Any

import keras
from keras import ops
from keras.layers import Layer

from keras_switcher.features import ends
from keras_switcher.layers import SwitchedDense
from keras_switcher.model import SwitchedModel


def converted_functional(
    model: keras.Model, convert: Callable[[Layer], Layer | None]
) -> keras.Model:
    """Clone a graph of layers, with its weights, replacing the layers that `convert` replaces.

    Nested switched models become plain ones.
    """
    convert = _once(convert)
    clones: dict[int, Any] = {}
    pairs: list[tuple[Layer, Layer]] = []
    nested: list[tuple[Layer, Layer, dict[int, Layer]]] = []

    def clone(operation: Any) -> Any:
        # Not through Keras's cache, which two nested models that share a layer do not share.
        if id(operation) not in clones:
            clones[id(operation)] = new_one(operation)
        return clones[id(operation)]

    def new_one(operation: Any) -> Any:
        if not isinstance(operation, Layer):
            # An operation on tensors, such as `x * 2`, is not a layer and has no weights.
            return copied(operation)
        if _is_graph(operation):
            plain = graph(operation) if isinstance(operation, SwitchedModel) else operation
            return _cloned(plain, clone)
        new = convert(operation)
        if new is None and any(convert(inner) for _, inner in walk(operation)):
            new, converted = converted_attributes(operation, convert)
            nested.append((operation, new, converted))
            return new
        if new is None:
            new = copied(operation)
        pairs.append((operation, new))
        return new

    copy = _cloned(graph(model), clone)
    for old, new in pairs:
        if new is not old and (new.built or not old.built):
            _assign(old, new)
    for old, new, converted in nested:
        copy_weights(old, new, converted)
    return copy


def _once(convert: Callable[[Layer], Layer | None]) -> Callable[[Layer], Layer | None]:
    """Make a conversion return the same layer for one that several others share."""
    converted: dict[int, Layer | None] = {}

    def once(layer: Layer) -> Layer | None:
        if id(layer) not in converted:
            converted[id(layer)] = convert(layer)
        return converted[id(layer)]

    return once


def _cloned(model: keras.Model, clone: Callable[[Any], Any]) -> keras.Model:
    """Clone a model, not compiled, as Keras does, but keep which inputs are optional or sparse."""
    tensors = None
    if not isinstance(model, keras.Sequential):
        inputs = {id(x.output): x for x in model.layers if isinstance(x, keras.layers.InputLayer)}
        tensors = keras.tree.map_structure(lambda x: copied(inputs[id(x)]).output, model.input)
    # Keras would compile the copy, too, and may not know the loss.
    compiled, model.compiled = model.compiled, False
    try:
        return keras.models.clone_model(model, input_tensors=tensors, clone_function=clone)
    finally:
        model.compiled = compiled


def graph(model: keras.Model) -> keras.Model:
    """Return a plain model over the same layers, not compiled and not of a class of its own."""
    return keras.Model(*ends(model), name=model.name)


def copied(operation: Any) -> Any:
    """Recreate a layer, or an operation on tensors, from its configuration, without weights."""
    if isinstance(operation, keras.layers.Lambda) and not operation.weights:
        # Its configuration has the bytes of its function, but not what its names refer to.
        return operation
    return type(operation).from_config(operation.get_config())


def converted_attributes(
    layer: Layer, convert: Callable[[Layer], Layer | None]
) -> tuple[Layer, dict[int, Layer]]:
    """Copy a layer from its configuration, and replace layers held in its attributes.

    Returns:
        The copy, not built yet, and a mapping from the id of each of the original's inner layers to
        its counterpart in the copy.
    """
    try:
        copy = copied(layer)
    except (NotImplementedError, TypeError) as error:
        raise ValueError(
            f"Can't copy '{layer.name}', a {type(layer).__name__}: it does not come back from its "
            "own configuration. Implement get_config() so that from_config(get_config()) makes "
            f"the same model. The error was: {error}"
        ) from error
    originals, copies = dict(walk(layer)), dict(walk(copy))
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
    replace(copy, replacements)
    copies = dict(walk(copy))
    return copy, {id(old): copies[path] for path, old in originals.items() if path in copies}


def build_like(
    copy: keras.Model, model: keras.Model, source: keras.Model, converted: dict[int, Layer]
) -> None:
    """Build a copy of a subclassed model for the inputs that the model was built for.

    Args:
        copy: The copy, or a model around it.
        model: The model, or one around it.
        source: What was copied.
        converted: The layers of the copy by the ids of those of `source`.

    Raises:
        ValueError: If Keras can't build it without these inputs.
    """

    def is_built() -> bool:
        pairs = [(old, converted[id(old)]) for _, old in walk(source) if id(old) in converted]
        return all(new.built or not old.built for old, new in pairs)

    config = model.get_build_config() or {}
    copy.build_from_config(config)
    if not is_built() and "input_shape" in config:
        # Keras takes all inputs for floats, and goes on if the model can't be called on them.
        inputs = keras.tree.map_shape_structure(
            lambda shape: keras.Input(batch_shape=shape, dtype="int32"), config["input_shape"]
        )
        with contextlib.suppress(Exception):  # whatever the model's own code raises
            copy(inputs)
    if not is_built():
        raise ValueError(
            f"Can't build a copy of '{model.name}', a {type(model).__name__}: expected a model "
            "that can be called on floats or on integers of the shapes that it was built for. "
            f"Received shapes: {config or 'none'}. Make it a functional model, or write its layers "
            "as SwitchedDense."
        )
    # Keras builds the layers inside, and leaves it to the loading of a file to set this mark.
    copy.built = True


def _own_variables(layer: Layer) -> list[Any]:
    """Return the weights of a layer that belong to none of the layers inside it."""
    inner = {id(v) for _, child in _children(layer) for v in child.weights}
    return [v for v in layer.weights if id(v) not in inner]


def _assign(old: Layer, new: Layer) -> None:
    """Copy the weights of one layer; mask the kernel if the layer is no longer switched."""
    if isinstance(old, keras.layers.Dense) and type(old) is not type(new):
        kernel = old.masked_kernel() if isinstance(old, SwitchedDense) else old.kernel
        new.kernel.assign(ops.cast(kernel, new.kernel.dtype))
        if old.bias is not None:
            new.bias.assign(old.bias)
        if isinstance(old.activation, Layer) and old.activation.built:
            # One with weights of its own, such as PReLU.
            if not new.activation.built:
                new.activation.build_from_config(old.activation.get_build_config())
            set_weights_like(old.activation, new.activation)
        return
    set_weights_like(old, new)


def set_weights_like(old: Layer, new: Layer) -> None:
    """Give a layer everything that another of the same kind has besides its configuration.

    That is: the weights, what is derived from them, vocabularies, and which of the layers inside it
    are frozen.
    """
    for source, target in zip(old.weights, new.weights, strict=True):
        target.assign(ops.cast(source, target.dtype))
    _set_rest_like(old, new)
    for (_, source), (_, target) in zip(walk(old), walk(new), strict=True):
        _set_rest_like(source, target)


def copy_weights(old: Layer, new: Layer, converted: dict[int, Layer]) -> None:
    """Do what `set_weights_like` does between two layers whose attributes correspond."""
    for source, target in zip(_own_variables(old), _own_variables(new), strict=True):
        target.assign(source)
    _set_rest_like(old, new)
    # Parents come before the layers in them, as freezing a parent freezes everything in it.
    for _, original in walk(old):
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
        _set_rest_like(original, counterpart)


def _set_rest_like(old: Layer, new: Layer) -> None:
    """Give a layer what another has besides its configuration, its weights and its layers."""
    new.trainable = old.trainable
    if isinstance(new, keras.layers.Normalization):
        # It computes with values derived from the mean and the variance.
        new.finalize_state()
    if hasattr(old, "save_assets"):
        # A vocabulary.
        with tempfile.TemporaryDirectory() as folder:
            old.save_assets(folder)
            new.load_assets(folder)


@functools.cache
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
    """Return the layers held in a layer's attributes: (container, key, path, layer)."""
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
    """Return whether a layer is a model whose layers are held in no attribute."""
    return isinstance(layer, keras.Model) and (
        isinstance(layer, keras.Sequential) or bool(getattr(layer, "inputs", None))
    )


def _children(layer: Layer) -> list[tuple[str, Layer]]:
    """Return the layers directly inside a layer, each with its path."""
    if _is_graph(layer):
        return [(f"layers/{index}", child) for index, child in enumerate(layer.layers)]
    return [(path, child) for _, _, path, child in _entries(layer)]


def walk(layer: Layer) -> list[tuple[str, Layer]]:
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


def replace(layer: Layer, replacements: dict[int, Layer]) -> None:
    """Replace some of the layers held in attributes, at any depth."""
    replacements = dict(replacements)

    def has_replaced(parent: Layer) -> bool:
        return any(id(child) in replacements for _, child in walk(parent))

    def clone(inner: Layer) -> Layer:
        if id(inner) in replacements or not isinstance(inner, Layer) or not has_replaced(inner):
            return replacements.get(id(inner), inner)
        # The layers of a graph are built, so their attributes no longer accept other layers.
        return converted_attributes(inner, lambda child: replacements.get(id(child)))[0]

    # `walk` returns children after their parents, and a model inside a nested model may have to be
    # replaced first.
    for _, child in reversed(walk(layer)):
        if _is_graph(child) and has_replaced(child):
            replacements[id(child)] = _cloned(child, clone)
    # The contents of a replaced model stay as they are: its layers may be built.
    replaced = {id(c) for _, m in walk(layer) if id(m) in replacements for _, c in walk(m)}
    for parent in [layer, *(child for _, child in walk(layer) if id(child) not in replaced)]:
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
            # Keras keeps the replaced layer in its list of sublayers; there is no public way to
            # remove it.
            if any(child is old for child in parent._layers):
                parent._tracker.untrack(old)
