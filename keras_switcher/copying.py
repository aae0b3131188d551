"""Copies of models in which some layers are replaced by others, with their weights."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import keras
from keras.layers import Layer

from keras_switcher.functional import functional_base
from keras_switcher.graphs import ends
from keras_switcher.layers import SwitchedDense
from keras_switcher.model import SwitchedModel
from keras_switcher.nesting import (
    children,
    entries,
    lists_its_layers,
    serialized_switched,
    shared_layers,
    walk,
)
from keras_switcher.recreating import copied, without_builds
from keras_switcher.registry import PACKAGE
from keras_switcher.state import copy_weights, pairs_of

AnyModel = TypeVar("AnyModel", bound=keras.Model)


def converted_functional(
    model: keras.Model, convert: Callable[[Layer], Layer | None]
) -> keras.Model:
    """Clone a graph of layers, with its weights, replacing the layers that `convert` replaces.

    Nested switched models become plain ones.
    """
    convert = _with_shared(model, convert)
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
        if isinstance(operation, SwitchedNetwork):
            return new_one(operation.network)
        if lists_its_layers(operation) and not has_own(operation, "call"):
            plain = graph(operation) if isinstance(operation, SwitchedModel) else operation
            return _cloned(plain, clone)
        new = convert(operation) or _copied_with(operation, convert)
        pairs.append((operation, new))
        return new

    _check_no_own_call(model)
    copy = _cloned(graph(model), clone)
    for old, new in pairs:
        if new is not old:
            copy_weights(old, new)
    return copy


def _copied_with(layer: Layer, convert: Callable[[Layer], Layer | None]) -> Layer:
    """Return a copy of a layer, in which those are replaced that `convert` replaces."""
    if not any(convert(inner) for _, inner in walk(layer)):
        copy: Layer = copied(layer)
        return copy
    if lists_its_layers(layer):
        _check_no_own_call(layer)
    return converted_attributes(layer, convert)


def _with_shared(
    model: keras.Model, convert: Callable[[Layer], Layer | None]
) -> Callable[[Layer], Layer | None]:
    """Make a conversion copy, once, each layer that stands in several layers of a graph."""
    shared = {id(layer) for layer in shared_layers(model)}
    found: dict[int, Layer | None] = {}

    def with_shared(layer: Layer) -> Layer | None:
        if id(layer) not in found:
            new = convert(layer)
            if new is None and id(layer) in shared:
                new = _copied_with(layer, with_shared)
                config = layer.get_build_config() if layer.built else None
                # What it stands in may have a way of its own to build that leaves it out.
                if config and not new.built and not children(layer):
                    new.build_from_config(config)
            found[id(layer)] = new
        return found[id(layer)]

    return with_shared


def has_own(model: keras.Model, name: str) -> bool:
    """Return whether the class of a model has a method of its own, which those of Keras lack.

    Args:
        model: The model.
        name: The name of a method of `keras.Model`.
    """
    classes = (keras.Model, keras.Sequential, functional_base(), SwitchedModel)
    return all(getattr(type(model), name) is not getattr(cls, name) for cls in classes)


def _check_no_own_call(model: keras.Model) -> None:
    """Check that what a graph computes is what its layers do.

    Raises:
        ValueError: If its class has a `call` of its own, which no copy of the graph would have.
    """
    if has_own(model, "call"):
        raise ValueError(
            f"Can't copy '{model.name}', a {type(model).__name__}, layer by layer: it has inputs "
            "and outputs, and its class has a `call` of its own besides, which would be lost. Make "
            "what that does a layer of the graph. Or make the class a subclassed model, which has "
            "its layers as attributes and no inputs and outputs."
        )


def _cloned(model: keras.Model, clone: Callable[[Any], Any]) -> keras.Model:
    """Clone a model, not compiled, as Keras does, but keep which inputs are optional or sparse."""
    tensors = None
    if not isinstance(model, keras.Sequential):
        inputs = {id(x.output): x for x in model.layers if isinstance(x, keras.layers.InputLayer)}
        tensors = keras.tree.map_structure(lambda x: copied(inputs[id(x)]).output, model.input)
    # Keras would compile the copy, too, and may not know the loss.
    compiled, model.compiled = model.compiled, False
    try:
        copy = keras.models.clone_model(model, input_tensors=tensors, clone_function=clone)
    finally:
        model.compiled = compiled
    return frozen_like(model, copy)


def graph(model: keras.Model) -> keras.Model:
    """Return a plain model over the same layers, not compiled and not of a class of its own."""
    return frozen_like(model, keras.Model(*ends(model), name=model.name))


def frozen_like(model: keras.Model, copy: AnyModel) -> AnyModel:
    """Give a copy of a model its `trainable`, and leave alone that of each layer in the copy.

    Keras passes on to the layers what `trainable` is set to, and only if it changes. So a copy that
    were `True` around frozen layers could not be unfrozen. There is no public way to set it alone.

    Args:
        model: The model.
        copy: Its copy, which is returned.
    """
    copy._trainable = model.trainable
    return copy


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
            for _, old, new in pairs_of(source, network)
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
    # Whoever loads a file makes an instance of the model's own class again, with its `call`.
    return converted_functional(graph(model), lambda layer: new.get(id(layer))) if new else model


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
            without_builds(switched[path]), custom_objects
        )
        for path, layer in walk(model)
        if path in switched and not isinstance(layer, SwitchedDense)
    }


@keras.saving.register_keras_serializable(PACKAGE)
class SwitchedNetwork(SwitchedModel):
    """A switched model that wraps a subclassed one, whose own `call` does the forward pass.

    `switch` creates it; the wrapped model is its attribute `network`. To load a saved one, Keras
    must know the class of the network, as for every custom class.

    Args:
        network: The model, with `SwitchedDense` layers in its attributes.
        **kwargs: Keyword arguments of `keras.Model`.
    """

    def __init__(self, network: keras.Model, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.network = network

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        return self.network(inputs)

    def get_config(self) -> dict[str, Any]:
        """Return the configurations of the network and, by path, of each of its switched layers."""
        return {
            "name": self.name,
            "trainable": self.trainable,
            # Keras saves it of no subclassed model.
            "network_trainable": self.network.trainable,
            "dtype": keras.saving.serialize_keras_object(self.dtype_policy),
            "network": keras.saving.serialize_keras_object(self.network),
            "switched": serialized_switched(walk(self.network)),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "SwitchedNetwork":
        """Recreate the network and put the switched layers back at their paths."""
        network_config = {k: v for k, v in config["network"].items() if k != "build_config"}
        network = keras.saving.deserialize_keras_object(network_config, custom_objects)
        replace(network, switched_at(network, config["switched"], custom_objects))
        model = cls(network, name=config["name"])
        model.dtype_policy = keras.saving.deserialize_keras_object(config["dtype"])
        # Files of before lack them.
        network._trainable = config.get("network_trainable", network.trainable)
        model._trainable = config.get("trainable", model.trainable)
        return model


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
        if lists_its_layers(child) and has_replaced(child):
            _check_no_own_call(child)
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
            with _in_place(parent, old, new):
                if isinstance(container, Layer):
                    setattr(container, key, new)
                else:
                    container[key] = new
                    parent._tracker.track(new)


@contextlib.contextmanager
def _in_place(parent: Layer, old: Layer, new: Layer) -> Iterator[None]:
    """Have Keras take a layer for a sublayer in the place of another, whose order weights have.

    Keras keeps a replaced layer in its list of sublayers and puts the new one at the end, and a
    layer that is built takes none; there is no public way to change that.
    """
    tracker, sublayers = parent._tracker, parent._layers
    place = next((i for i, child in enumerate(sublayers) if child is old), None)
    is_new = all(child is not new for child in sublayers)
    was_locked, tracker.locked = tracker.locked, False
    try:
        yield
    finally:
        tracker.locked = was_locked
    if place is not None:
        tracker.untrack(old)
        if is_new:
            sublayers.insert(place, sublayers.pop())
