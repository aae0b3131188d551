"""Copies of models in which some layers are replaced by others, with their weights."""

import contextlib
import tempfile
from collections.abc import Callable
from typing import Any

import keras
from keras import ops
from keras.layers import Layer

from keras_switcher.features import ends
from keras_switcher.layers import SwitchedDense
from keras_switcher.model import SwitchedModel
from keras_switcher.nesting import children, entries, is_graph, walk


def converted_functional(
    model: keras.Model, convert: Callable[[Layer], Layer | None]
) -> keras.Model:
    """Clone a graph of layers, with its weights, replacing the layers that `convert` replaces.

    Nested switched models become plain ones.
    """
    convert = _once(convert)
    clones: dict[int, Any] = {}
    pairs: list[tuple[Layer, Layer]] = []

    def clone(operation: Any) -> Any:
        # Not through Keras's cache, which two nested models that share a layer do not share.
        if id(operation) not in clones:
            clones[id(operation)] = new_one(operation)
        return clones[id(operation)]

    def new_one(operation: Any) -> Any:
        if not isinstance(operation, Layer):
            # An operation on tensors, such as `x * 2`, is not a layer and has no weights.
            return copied(operation)
        if is_graph(operation):
            plain = graph(operation) if isinstance(operation, SwitchedModel) else operation
            return _cloned(plain, clone)
        new = convert(operation)
        if new is None and any(convert(inner) for _, inner in walk(operation)):
            new = converted_attributes(operation, convert)
        elif new is None:
            new = copied(operation)
        pairs.append((operation, new))
        return new

    copy = _cloned(graph(model), clone)
    for old, new in pairs:
        if new is not old:
            copy_weights(old, new)
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


def copied(operation: Any, *, build: bool = True) -> Any:
    """Recreate a layer, or an operation on tensors, from its configuration, without weights.

    Args:
        operation: The layer or operation.
        build: Whether layers inside it may be built, as far as its configuration says how. Then
            their own layers can't be replaced.

    Raises:
        ValueError: If it does not come back from its configuration.
    """
    if isinstance(operation, keras.layers.Lambda) and not operation.weights:
        # Its configuration has the bytes of its function, but not what its names refer to.
        return operation
    try:
        config = operation.get_config()
        copy = type(operation).from_config(config if build else _without_builds(config))
    except (NotImplementedError, TypeError) as error:
        raise ValueError(
            f"Can't copy '{operation.name}', a {type(operation).__name__}: it does not come back "
            "from its own configuration. Implement get_config() so that from_config(get_config()) "
            "makes the same again, and let __init__ pass **kwargs on to super().__init__(). The "
            f"error was: {error}"
        ) from error
    # A `get_config()` of a user's own may leave it out.
    copy.name = operation.name
    if isinstance(operation, Layer):
        _set_policies_like(operation, copy)
    return copy


def _set_policies_like(old: Layer, new: Layer) -> None:
    """Give the layers inside a copy, made by its code at any time, the types of the original's."""
    copies = dict(walk(new))
    for path, original in walk(old):
        policy = original.dtype_policy
        if path in copies and policy.quantization_mode is None:
            if copies[path].dtype_policy != policy:
                copies[path].dtype_policy = policy


def _without_builds(config: Any) -> Any:
    """Return a configuration without what tells Keras to build the layers in it."""
    if isinstance(config, dict):
        return {k: _without_builds(v) for k, v in config.items() if k != "build_config"}
    if isinstance(config, (list, tuple)):
        return type(config)(map(_without_builds, config))
    return config


def converted_attributes(layer: Layer, convert: Callable[[Layer], Layer | None]) -> Layer:
    """Return a copy of a layer, not built, with some of the layers in its attributes replaced."""
    copy = copied(layer, build=False)
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
    return copy


def _pairs(old: Layer, new: Layer) -> list[tuple[str, Layer, Layer | None]]:
    """Return the layers inside a layer, with their paths and with those of its copy there.

    What is inside a converted layer, such as an activation that is a layer, is left out.
    """
    copies = dict(walk(new))
    found: list[tuple[str, Layer, Layer | None]] = []
    inside: set[int] = set()
    for path, original in walk(old):
        if id(original) not in inside:
            found.append((path, original, copies.get(path)))
            if _is_converted(original, copies.get(path)):
                inside.update(id(child) for _, child in walk(original))
    return found


def _is_converted(old: Layer, new: Layer | None) -> bool:
    return isinstance(old, keras.layers.Dense) and type(old) is not type(new)


def build_like(
    copy: keras.Model, model: keras.Model, source: keras.Model, network: keras.Model
) -> None:
    """Build a copy of a subclassed model for the inputs that the model was built for.

    Args:
        copy: The copy, or a model around it.
        model: The model, or one around it.
        source: What was copied.
        network: Its copy, `copy` itself or inside it.

    Raises:
        ValueError: If Keras can't build it without these inputs.
    """

    def is_built() -> bool:
        # Some layers make others when they are built.
        return all(
            not old.weights if new is None else new.built or not old.built
            for _, old, new in _pairs(source, network)
        )

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
    # `walk` does not look into a switched layer, whose switcher is a part of it.
    parts = [] if isinstance(layer, SwitchedDense) else children(layer)
    inner = {id(v) for _, child in parts for v in child.weights}
    return [v for v in layer.weights if id(v) not in inner]


def copy_weights(old: Layer, new: Layer) -> None:
    """Give a layer everything that another has besides its configuration.

    That is: the weights, what is derived from them, vocabularies, and which layers are frozen; the
    same for the layers inside, whose attributes must correspond. A dense layer that is no longer
    switched gets the masked kernel.

    Raises:
        ValueError: If a layer has weights for which there is no place.
    """
    inside = [] if _is_converted(old, new) else _pairs(old, new)
    # Parents come before the layers in them, as freezing a parent freezes everything in it.
    for path, original, counterpart in [("", old, new), *inside]:
        if counterpart is not None and _is_converted(original, counterpart):
            if original.built:
                _copy_converted(original, counterpart)
            continue
        sources = _own_variables(original)
        targets = [] if counterpart is None else _own_variables(counterpart)
        if not original.built and not sources:
            continue
        if [tuple(v.shape) for v in sources] != [tuple(v.shape) for v in targets]:
            raise ValueError(
                f"Can't copy the weights of '{original.name}', a {type(original).__name__} at "
                f"'{path}' of '{old.name}': the copy has no such layer, or it is not built. Let "
                "the layers around it make it in __init__, and build it in build()."
            )
        for source, target in zip(sources, targets, strict=True):
            target.assign(ops.cast(source, target.dtype))
        if counterpart is not None:
            _set_rest_like(original, counterpart)


def _copy_converted(old: Layer, new: Layer) -> None:
    kernel = old.masked_kernel() if isinstance(old, SwitchedDense) else old.kernel
    new.kernel.assign(ops.cast(kernel, new.kernel.dtype))
    if old.bias is not None:
        new.bias.assign(old.bias)
    if isinstance(old.activation, Layer) and old.activation.built:
        # One with weights of its own, such as PReLU.
        if not new.activation.built:
            new.activation.build_from_config(old.activation.get_build_config())
        copy_weights(old.activation, new.activation)


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


def with_switched(
    model: keras.Model, switched: dict[str, Any], custom_objects: Any = None
) -> keras.Model:
    """Return a graph with switched layers at some paths, from their configurations.

    Args:
        model: The graph, which may have plain layers there.
        switched: The switched layers by path, serialised.
        custom_objects: As for `keras.saving.deserialize_keras_object`.

    Returns:
        The model itself if its layers there are switched already; otherwise a copy.
    """
    new = switched_at(model, switched, custom_objects)
    return converted_functional(model, lambda layer: new.get(id(layer))) if new else model


def switched_at(
    model: keras.Model, switched: dict[str, Any], custom_objects: Any = None
) -> dict[int, Layer]:
    """Return switched layers from their configurations, by the id of the plain layer at their path.

    Args:
        model: The model with plain layers.
        switched: The switched layers by path, serialised.
        custom_objects: As for `keras.saving.deserialize_keras_object`.
    """
    return {
        id(layer): keras.saving.deserialize_keras_object(
            _without_builds(switched[path]), custom_objects
        )
        for path, layer in walk(model)
        if path in switched and not isinstance(layer, SwitchedDense)
    }


def replace(layer: Layer, replacements: dict[int, Layer]) -> None:
    """Replace some of the layers held in attributes, at any depth."""
    replacements = dict(replacements)

    def has_replaced(parent: Layer) -> bool:
        return any(id(child) in replacements for _, child in walk(parent))

    def clone(inner: Layer) -> Layer:
        if id(inner) in replacements or not isinstance(inner, Layer) or not has_replaced(inner):
            return replacements.get(id(inner), inner)
        # The layers of a graph are built, so their attributes no longer accept other layers.
        return converted_attributes(inner, lambda child: replacements.get(id(child)))

    # `walk` returns children after their parents, and a model inside a nested model may have to be
    # replaced first.
    for _, child in reversed(walk(layer)):
        if is_graph(child) and has_replaced(child):
            replacements[id(child)] = _cloned(child, clone)
    # The contents of a replaced model stay as they are: its layers may be built.
    replaced = {id(c) for _, m in walk(layer) if id(m) in replacements for _, c in walk(m)}
    for parent in [layer, *(child for _, child in walk(layer) if id(child) not in replaced)]:
        for container, key, path, old in entries(parent):
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
