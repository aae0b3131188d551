"""Rules of layers that treat every feature by itself, in one tensor or in several to merge."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import activations, ops
from numpy.typing import NDArray

from .features import Constants, Mask, Surroundings
from .rule import Featurewise, Weights

Function = Callable[[NDArray[np.float64]], NDArray[np.float64]]

# Activations of Keras that treat each element by itself: not softmax, log_softmax, sparsemax and
# glu, which look at all features.
_ELEMENTWISE = (
    activations.celu,
    activations.elu,
    activations.exponential,
    activations.gelu,
    activations.hard_shrink,
    activations.hard_sigmoid,
    activations.hard_silu,
    activations.hard_tanh,
    activations.leaky_relu,
    activations.linear,
    activations.log_sigmoid,
    activations.mish,
    activations.relu,
    activations.relu6,
    activations.selu,
    activations.sigmoid,
    activations.silu,
    activations.soft_shrink,
    activations.softplus,
    activations.softsign,
    activations.sparse_plus,
    activations.sparse_sigmoid,
    activations.squareplus,
    activations.tanh,
    activations.tanh_shrink,
    activations.threshold,
)


def in_float64(function: Callable[[Any], Any]) -> Function:
    """Return a function of tensors as one of float64 arrays."""

    def apply(values: NDArray[np.float64]) -> NDArray[np.float64]:
        tensor = function(ops.convert_to_tensor(values, "float64"))
        return np.asarray(ops.convert_to_numpy(tensor), "float64")

    return apply


def activation_function(activation: Any) -> Function | None:
    """Return a layer's activation for constants, or `None` where it may mix features."""
    if activation is None:
        return in_float64(activations.linear)
    return in_float64(activation) if activation in _ELEMENTWISE else None


class Elementwise(Featurewise):
    """A layer without weights that turns a constant into a constant.

    Args:
        layer: The layer.
        function: What it makes of a constant; by default the constant itself, as in pooling and, in
            inference, dropout.
    """

    def __init__(self, layer: Any, function: Function | None = None) -> None:
        super().__init__(layer)
        self.function = function

    def constants(self, inputs: Sequence[Constants]) -> Constants:
        """Return the same features, with the function's values."""
        (given,) = inputs
        if self.function is None:
            return given
        return Constants.of(given.known, self.function(given.values))


class ZeroPadding(Featurewise):
    """A layer that surrounds its input with zeros: of the constants, only 0 remains one."""

    def constants(self, inputs: Sequence[Constants]) -> Constants:
        """Return the constants that are 0."""
        return Constants.of(inputs[0].zero, inputs[0].values)


class Merge(Featurewise):
    """A layer that joins tensors of the same features element by element.

    Args:
        layer: The layer.
        function: What it makes of two values.
    """

    def __init__(self, layer: Any, function: Callable[[Any, Any], Any]) -> None:
        super().__init__(layer)
        self.function = function

    def constants(self, inputs: Sequence[Constants]) -> Constants:
        """Return the features that are constant in all inputs."""
        known = np.logical_and.reduce([each.known for each in inputs])
        values = functools.reduce(self.function, [each.values for each in inputs])
        return Constants.of(known, values)


class AverageMerge(Merge):
    """The `Average` layer: the mean of its inputs."""

    def __init__(self, layer: Any) -> None:
        super().__init__(layer, np.add)

    def constants(self, inputs: Sequence[Constants]) -> Constants:
        """Return the features that are constant in all inputs."""
        total = super().constants(inputs)
        return Constants.of(total.known, total.values / len(inputs))


class Sliced(Featurewise):
    """A layer whose weights all have one entry for each feature, on their last axis."""

    def rebuilt(self, around: Surroundings) -> tuple[dict[str, Any], Weights]:
        """Return the layer with the kept features of its weights."""
        weights = [weight[..., around.kept] for weight in self.layer.get_weights()]
        return self.layer.get_config(), weights


class Normalized(Sliced):
    """`BatchNormalization` over the features: in inference a factor and an offset for each."""

    def _scale(self, features: int) -> NDArray[np.float64]:
        gamma = self.layer.gamma
        return np.ones(features) if gamma is None else np.asarray(gamma).astype("float64")

    def constants(self, inputs: Sequence[Constants]) -> Constants:
        """Return the features that are constant before it, and those with the factor 0."""
        layer, (given,) = self.layer, inputs
        scale = self._scale(len(given.known))
        mean = np.asarray(layer.moving_mean).astype("float64")
        variance = np.asarray(layer.moving_variance).astype("float64")
        offset = 0.0 if layer.beta is None else np.asarray(layer.beta).astype("float64")
        values = (given.values - mean) * scale / np.sqrt(variance + layer.epsilon) + offset
        return Constants.of(given.known | (scale == 0), values)

    def needs(self, inputs: Sequence[Constants], needed: Mask) -> list[Mask]:
        """Return the needed features whose factor is not 0."""
        return [needed & (self._scale(len(needed)) != 0)]


class ParametricReLU(Sliced):
    """`PReLU` with a slope for each feature."""

    def constants(self, inputs: Sequence[Constants]) -> Constants:
        """Return the features constant before it, unless positions treat them differently."""
        (given,) = inputs
        slopes = np.asarray(self.layer.alpha).astype("float64").reshape(-1, len(given.known))
        known = given.known & ((given.values >= 0) | np.all(slopes == slopes[0], axis=0))
        return Constants.of(known, np.where(given.values >= 0, 1.0, slopes[0]) * given.values)


def relu_function(layer: keras.layers.ReLU) -> Function:
    """Return the function of a `ReLU` layer for constants."""
    return in_float64(
        lambda x: activations.relu(
            x,
            negative_slope=layer.negative_slope,
            max_value=layer.max_value,
            threshold=layer.threshold,
        )
    )
