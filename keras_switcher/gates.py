"""Gates: from the switcher's logits to switches with exact zeros.

A gate is a function that takes a float32 tensor of logits and returns a tensor of the same shape.
The result is exactly 0 where the logit is <= 0 and positive elsewhere, so a connection is off if
and only if its logit is not positive. A gate brings its own gradient.
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
from keras import ops

from keras_switcher.registry import Registry

Gate = Callable[[Any], Any]

registry: Registry[Gate] = Registry("gate", "@keras_switcher.gates.register('name')")

# Also of gates whose name has been given to a newer definition since, as by a notebook's cell that
# was run again: layers that were made before still have them.
_names: dict[Gate, str] = {}


def register(name: str) -> Callable[[Gate], Gate]:
    """Return a decorator that registers a gate and returns it unchanged.

    Args:
        name: The name for flags, saved files and `SwitchedDense(gate=...)`.

    Raises:
        ValueError: If the name is taken, or can't stand in a flag.

    Example:

    ```python
    from keras_switcher import SwitchedDense, gates

    @gates.register("hard_sigmoid")
    def hard_sigmoid(logits):
        return keras.ops.clip(logits, 0.0, 1.0)

    layer = SwitchedDense(10, gate="hard_sigmoid")
    ```
    """
    accept = registry.register(name)

    def decorate(gate: Gate) -> Gate:
        # The first of several names, so that files stay readable without the others.
        _names.setdefault(accept(gate), name)
        return gate

    return decorate


@register("step")
@ops.custom_gradient
def step(logits: Any) -> Any:
    """Switches of 0 or 1: `1[logit > 0]`, with the gradient of a sigmoid.

    The step's own gradient is zero almost everywhere; the straight-through estimator replaces it
    with that of `sigmoid(logit)`.

    Args:
        logits: Float tensor of any shape.

    Returns:
        Tensor of zeros and ones, with the shape and dtype of `logits`.

    Reference:
        [Bengio et al., 2013](https://arxiv.org/abs/1308.3432), straight-through estimator.
    """
    switches = ops.cast(logits > 0, logits.dtype)

    def grad(upstream: Any) -> Any:
        soft = ops.sigmoid(logits)
        return upstream * soft * (1.0 - soft)

    return switches, grad


@register("relu_tanh")
def relu_tanh(logits: Any) -> Any:
    """Switches that also scale: `relu(tanh(logit))`, in [0, 1].

    The gradient is the function's own: a connection that is off receives none through its own
    switch, and turns on again only if the shared weights of the switcher raise its logit.

    Args:
        logits: Float tensor of any shape.

    Returns:
        Tensor of values in [0, 1], with the shape and dtype of `logits`.
    """
    return ops.relu(ops.tanh(logits))


def get(identifier: str | Gate) -> Gate:
    """Return a gate by its registered name; return a callable unchanged.

    Args:
        identifier: A registered name or a callable.

    Returns:
        The gate.

    Raises:
        ValueError: If the name is not registered.
    """
    return identifier if callable(identifier) else registry.get(identifier)


def check(gate: Gate) -> None:
    """Check on a few logits that a gate does what a gate must.

    Args:
        gate: The gate.

    Raises:
        ValueError: If it does not.
    """
    # A layer may be made inside a function that is being traced.
    with tf.init_scope():
        if tf.executing_eagerly():
            _check_values(gate)


@functools.cache
def _check_values(gate: Gate) -> None:
    logits = np.array([[-3.0, -1e-3, 0.0], [1e-3, 0.5, 3.0]], "float32")
    switches = ops.convert_to_numpy(gate(ops.convert_to_tensor(logits)))
    if (
        switches.shape != logits.shape
        or not np.array_equal(switches > 0, logits > 0)
        or np.any(switches < 0)
    ):
        raise ValueError(
            "Expected a gate to return a tensor of the logits' shape: 0 where a logit is <= 0, and "
            f"positive elsewhere. Received: {gate!r}, which returns {switches.tolist()} for "
            f"{logits.tolist()}"
        )


def serialize(gate: Gate) -> str:
    """Return the name under which `gate` is registered.

    Args:
        gate: A registered gate.

    Returns:
        Its name.

    Raises:
        ValueError: If the gate is not registered, and so could not be loaded again.
    """
    if gate in _names:
        return _names[gate]
    raise ValueError(
        "A gate must be registered, so that a saved layer can find it again: decorate it with "
        f"{registry.how_to_add}. Received: {gate!r}"
    )
