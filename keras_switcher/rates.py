"""Learning rates of switched kernels, which rise as their connections go."""

import contextlib
import functools
from collections.abc import Sequence
from typing import Any

from keras_switcher.layers import SwitchedDense


def scale_rates(optimizer: Any, layers: Sequence[SwitchedDense], exponent: float) -> None:
    """Have an optimiser divide each kernel's learning rate by its density to a power.

    What a step changes in a unit's output adds up over the connections that are on. So a sparse
    layer learns more slowly than a dense one at the same rate, the more so the sparser it is.

    Args:
        optimizer: The task network's, built. It is changed in place.
        layers: The switched layers; those whose kernels it does not train are left out.
        exponent: The power, in [0, 1]: 0 leaves the rates as they are, with 1 a step changes the
            output of a unit by as much as if it were dense.

    Reference:
        [Dey et al., 2024](https://arxiv.org/abs/2405.15743): with sparse maximal update
        parametrisation the rate is divided by the density itself.
    """
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    # A `MultiOptimizer` has several, each with variables of its own.
    for each in getattr(inner, "optimizers", [inner]):
        _scale(each, layers, exponent)


def _scale(optimizer: Any, layers: Sequence[SwitchedDense], exponent: float) -> None:
    # By this private name alone an optimiser of Keras knows its variables again in any strategy.
    index_of = optimizer._get_variable_index
    scaled: dict[int, SwitchedDense] = {}
    for layer in layers:
        if layer.kernel.trainable:
            with contextlib.suppress(KeyError):
                scaled[index_of(layer.kernel)] = layer

    def update_step(gradient: Any, variable: Any, learning_rate: Any) -> None:
        layer = scaled.get(index_of(variable))
        if layer is not None:
            learning_rate = learning_rate * layer.density() ** -exponent
        type(optimizer).update_step(optimizer, gradient, variable, learning_rate)

    # That of an earlier compilation goes.
    vars(optimizer).pop("update_step", None)
    if exponent:
        # `update_step` is what an optimiser overrides; this is one that wraps another's.
        optimizer.update_step = functools.wraps(type(optimizer).update_step)(update_step)
