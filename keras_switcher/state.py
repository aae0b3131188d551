"""What a layer has besides its configuration: weights, vocabularies, and what is frozen."""

import tempfile
from typing import Any

import keras
from keras import ops
from keras.layers import Layer

from keras_switcher.layers import SwitchedDense
from keras_switcher.nesting import children, walk


def pairs_of(old: Layer, new: Layer) -> list[tuple[str, Layer, Layer | None]]:
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
    inside = [] if _is_converted(old, new) else pairs_of(old, new)
    _check_no_more(old, new, inside)
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
            for source, target in zip(sources, targets, strict=True):
                target.trainable = source.trainable


def _check_no_more(old: Layer, new: Layer, inside: list[tuple[str, Layer, Layer | None]]) -> None:
    """Check that a copy has no layers with weights where the original has others, or none."""
    if _is_converted(old, new):
        return
    known = {path for path, _, _ in inside}
    converted = {
        id(child) for _, o, n in inside if n and _is_converted(o, n) for _, child in walk(n)
    }
    for path, layer in walk(new):
        if path not in known and layer.weights and id(layer) not in converted:
            raise ValueError(
                f"Can't copy the weights of '{old.name}', a {type(old).__name__}: the layer at "
                f"'{path}' of its copy, '{layer.name}', is none of the original's own. A layer was "
                "replaced, removed, or put in two places after __init__: do that in __init__, so "
                "that from_config(get_config()) makes the same again."
            )


def _copy_converted(old: Layer, new: Layer) -> None:
    kernel = old.masked_kernel() if isinstance(old, SwitchedDense) else old.kernel
    new.kernel.assign(ops.cast(kernel, new.kernel.dtype))
    new.trainable = old.trainable
    new.kernel.trainable = old.kernel.trainable
    if old.bias is not None:
        new.bias.assign(old.bias)
        new.bias.trainable = old.bias.trainable
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
