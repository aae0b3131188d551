"""Functional instances of a subclass of `keras.Model`, without a change to the class itself."""

import functools
from typing import Any

import keras


def is_functional_call(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Return whether `Model(*args, **kwargs)` names the inputs and outputs of a graph."""
    if not (len(args) == 2 or "outputs" in kwargs and (len(args) == 1 or "inputs" in kwargs)):
        return False
    # A subclass may have two arguments of its own.
    inputs = keras.tree.flatten(args[0] if args else kwargs["inputs"])
    return bool(inputs) and all(isinstance(tensor, keras.KerasTensor) for tensor in inputs)


@functools.cache
def functional_base() -> type[keras.Model]:
    """Return the class that Keras makes functional models of, which has no public name."""
    tensor = keras.Input((1,))
    return type(keras.Model(tensor, tensor))


_classes: dict[type[Any], type[Any]] = {}


def functional_class(cls: type[Any]) -> type[Any]:
    """Return the class of the functional instances of `cls`.

    Keras would put `Functional` among the bases of `SwitchedModel` itself when the first functional
    instance is made, and so break every subclass with a `call` of its own.
    """
    if cls in _classes:
        return _classes[cls]
    namespace = {"__module__": cls.__module__, "__qualname__": cls.__qualname__}
    functional = _classes[cls] = type(cls.__name__, (cls, functional_base()), namespace)
    package, separator, name = keras.saving.get_registered_name(cls).rpartition(">")
    if separator:
        # A saved file names the registered class; it is the functional one that can be revived
        # from a graph.
        keras.saving.register_keras_serializable(package, name)(functional)
    return functional
