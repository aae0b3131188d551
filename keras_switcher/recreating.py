"""Layers, and operations on tensors, made again from their configurations."""

from typing import Any

import keras
from keras.layers import Layer
from keras.src.backend.common import global_state
from keras.src.saving.serialization_lib import ObjectSharingScope

from keras_switcher.nesting import walk


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
        # What a subclass takes is not known.
        return _lambda_like(operation) if type(operation) is keras.layers.Lambda else operation
    try:
        copy = _recreated(operation, build)
    except (NotImplementedError, TypeError, ValueError) as error:
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


def _lambda_like(layer: keras.layers.Lambda) -> keras.layers.Lambda:
    """Return a layer of the same function, not of the bytes that its configuration has of it.

    These do not hold what the names in the function refer to.
    """
    copy = keras.layers.Lambda(
        layer.function,
        # It is nowhere else, but as bytes.
        output_shape=layer._output_shape,
        mask=layer.mask,
        arguments=dict(layer.arguments),
        name=layer.name,
        dtype=layer.dtype_policy,
        autocast=layer.autocast,
        trainable=layer.trainable,
        activity_regularizer=layer.activity_regularizer,
    )
    copy.supports_masking = layer.supports_masking
    return copy


def _recreated(operation: Any, build: bool) -> Any:
    """Recreate an operation, with each layer in it once, wherever its configuration has it again.

    Keras does so when it saves and loads a file, and has no public way to do it elsewhere. When its
    scope ends, that of a file which is being loaded goes on: Keras would end both.
    """
    names = ("shared_objects/id_to_obj_map", "shared_objects/id_to_config_map")
    before = {name: global_state.get_global_attribute(name) for name in names}
    try:
        with ObjectSharingScope():
            config = operation.get_config()
            inside = walk(operation) if isinstance(operation, Layer) else []
            config = config if build else without_builds(config)
            config = _without_ids(config, {id(layer) for _, layer in inside})
            # What the code of the operation serialises is its own affair.
            global_state.set_global_attribute(names[1], None)
            return type(operation).from_config(config)
    finally:
        for name, value in before.items():
            global_state.set_global_attribute(name, value)


def _without_ids(config: Any, kept: set[int]) -> Any:
    """Return a configuration without the marks of what is shared, but for some objects.

    Keras knows an object by its address, which several that were made for a moment may have had.
    """
    if isinstance(config, dict):
        marked = config.get("shared_object_id")
        return {
            key: _without_ids(value, kept)
            for key, value in config.items()
            if key != "shared_object_id" or marked in kept
        }
    if isinstance(config, (list, tuple)):
        return type(config)(_without_ids(value, kept) for value in config)
    return config


def _set_policies_like(old: Layer, new: Layer) -> None:
    """Give the layers inside a copy, made by its code at any time, the types of the original's."""
    copies = dict(walk(new))
    for path, original in walk(old):
        policy = original.dtype_policy
        if path in copies and policy.quantization_mode is None:
            if copies[path].dtype_policy != policy:
                copies[path].dtype_policy = policy


def without_builds(config: Any) -> Any:
    """Return a configuration without what tells Keras to build the layers in it."""
    if isinstance(config, dict):
        return {k: without_builds(v) for k, v in config.items() if k != "build_config"}
    if isinstance(config, (list, tuple)):
        return type(config)(map(without_builds, config))
    return config
