"""Which rule a layer has; a layer without a rule stays as it is."""

import functools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import activations, layers, ops, tree

from keras_switcher.graphs import producer

from . import depthwise, elementwise, kernels, shapes
from .elementwise import activation_function, in_float64
from .features import width
from .rule import Rule

# None of these changes a constant feature: dropout and noise act only in training, and the average
# of a constant is the constant.
_UNCHANGING = (
    *(layers.Identity, layers.ActivityRegularization, layers.RepeatVector),
    *(layers.Dropout, layers.AlphaDropout, layers.GaussianDropout, layers.GaussianNoise),
    *(layers.SpatialDropout1D, layers.SpatialDropout2D, layers.SpatialDropout3D),
    *(layers.MaxPooling1D, layers.MaxPooling2D, layers.MaxPooling3D),
    *(layers.AveragePooling1D, layers.AveragePooling2D, layers.AveragePooling3D),
    *(layers.GlobalMaxPooling1D, layers.GlobalMaxPooling2D, layers.GlobalMaxPooling3D),
    *(layers.GlobalAveragePooling1D, layers.GlobalAveragePooling2D, layers.GlobalAveragePooling3D),
    *(layers.UpSampling1D, layers.UpSampling2D, layers.UpSampling3D),
    *(layers.Cropping1D, layers.Cropping2D, layers.Cropping3D),
)
# Interpolations of the upsampling layers whose weights add up to 1 at the borders, too.
_AVERAGING = ("nearest", "bilinear")
_PADDING = (layers.ZeroPadding1D, layers.ZeroPadding2D, layers.ZeroPadding3D)
_CONVOLUTIONS = (layers.Conv1D, layers.Conv2D, layers.Conv3D)
_DEPTHWISE = (layers.DepthwiseConv1D, layers.DepthwiseConv2D)
_SEPARABLE = (layers.SeparableConv1D, layers.SeparableConv2D)
_MERGES = {
    layers.Add: np.add,
    layers.Subtract: np.subtract,
    layers.Multiply: np.multiply,
    layers.Maximum: np.maximum,
    layers.Minimum: np.minimum,
}


@functools.cache
def _operations() -> tuple[type, type]:
    """Return the classes behind `keras.ops.relu` and `keras.ops.add`, which have no public name."""
    tensor = keras.Input((1,))
    relu, add = (type(producer(made)[0]) for made in (ops.relu(tensor), ops.add(tensor, tensor)))
    return relu, add


def rule_of(operation: Any, calls: list[Any], everywhere: list[Any], group: int) -> Rule | None:
    """Return the rule of a layer for some of its calls, or `None` if nothing is known about it.

    Args:
        operation: The layer, or operation on tensors. An instance of a subclass may do anything.
        calls: The calls that the rule is for.
        everywhere: All its calls in the model.
        group: Number of inputs of a dense layer that stay or go together.
    """
    if not all(_is_plain(call) for call in calls):
        return None
    if getattr(operation, "data_format", "channels_last") != "channels_last":
        return None
    kind, inputs, (output,) = type(operation), calls[0].input_tensors, calls[0].output_tensors
    if kind in _UNCHANGING and getattr(operation, "interpolation", "nearest") in _AVERAGING:
        return elementwise.Elementwise(operation)
    if kind in _PADDING:
        return elementwise.ZeroPadding(operation)
    if kind in (layers.Dense, *_CONVOLUTIONS, *_DEPTHWISE, *_SEPARABLE):
        return _kernel_rule(operation, group)
    if kind is layers.Flatten:
        return shapes.Flattened(operation, width(inputs[0]), width(output))
    if kind is layers.Reshape:
        # The new layer has one target shape for all its calls.
        return _reshape_rule(operation, inputs[0], output) if len(everywhere) == 1 else None
    if kind in (*_MERGES, layers.Average, _operations()[1]):
        return _merge_rule(operation, inputs, output)
    if kind is layers.Concatenate and operation.axis in (-1, len(output.shape) - 1):
        return shapes.Concatenated(operation, [width(tensor) for tensor in inputs])
    if kind is layers.BatchNormalization and operation.axis in (-1, len(output.shape) - 1):
        return elementwise.Normalized(operation)
    if kind is layers.PReLU and operation.alpha.shape[-1] == width(output):
        return elementwise.ParametricReLU(operation)
    function = _function(operation)
    return None if function is None else elementwise.Elementwise(operation, function)


def _is_plain(call: Any) -> bool:
    """Return whether a call has tensors with features, and no option that is on, such as training.

    Dropout in training mode, for example, does not leave a constant as it is.
    """
    arguments = call.arguments
    tensors = [*call.input_tensors, *call.output_tensors]
    return (
        len(call.output_tensors) == 1
        and all(isinstance(each, keras.KerasTensor) for each in tree.flatten(arguments.args))
        and all(option is None or option is False for option in arguments.kwargs.values())
        and all(width(tensor) for tensor in tensors)
    )


def _kernel_rule(layer: Any, group: int) -> Rule | None:
    if layer.quantization_mode is not None or getattr(layer, "lora_enabled", False):
        return None
    if getattr(layer.activation, "weights", None):
        # They would have to be cut with the units.
        return None
    function = activation_function(layer.activation)
    if isinstance(layer, layers.Dense):
        return kernels.FullKernel(layer, function, group=group, units="units")
    # A kernel of one position never reaches beyond the border.
    pads = layer.padding != "valid" and any(size != 1 for size in layer.kernel_size)
    if isinstance(layer, _DEPTHWISE):
        return depthwise.DepthwiseKernel(layer, function, pads=pads)
    if isinstance(layer, _SEPARABLE):
        return depthwise.SeparableKernel(layer, function, pads=pads, units="filters")
    if layer.groups != 1:
        return None
    return kernels.FullKernel(layer, function, pads=pads, units="filters")


def _reshape_rule(layer: Any, given: Any, output: Any) -> Rule | None:
    before, after = width(given), width(output)
    if before == after:
        return shapes.Regrouped(layer)
    if len(output.shape) == 2:
        return shapes.Flattened(layer, before, after)
    if len(given.shape) == 2:
        return shapes.Unflattened(layer, after, before)
    return None


def _merge_rule(operation: Any, inputs: list[Any], output: Any) -> Rule | None:
    # Not if features are repeated to the width of another input, or tensors are reshaped to fit.
    same = all(
        width(tensor) == width(output) and len(tensor.shape) == len(output.shape)
        for tensor in inputs
    )
    if not same:
        return None
    if isinstance(operation, layers.Average):
        return elementwise.AverageMerge(operation)
    return elementwise.Merge(operation, _MERGES.get(type(operation), np.add))


def _function(operation: Any) -> Callable[[Any], Any] | None:
    """Return the function of an activation or rescaling layer for constants, if elementwise."""
    kind = type(operation)
    if kind is layers.Activation:
        return activation_function(operation.activation)
    if kind is layers.ReLU:
        return elementwise.relu_function(operation)
    if kind is _operations()[0]:
        return in_float64(activations.relu)
    if kind is layers.LeakyReLU:
        return in_float64(lambda x: activations.leaky_relu(x, operation.negative_slope))
    if kind is layers.ELU:
        return in_float64(lambda x: activations.elu(x, operation.alpha))
    if kind is layers.Rescaling and np.ndim(operation.scale) == np.ndim(operation.offset) == 0:
        return lambda values: values * operation.scale + operation.offset
    return None
