"""Checks of the operators that have weights or windows: dense, convolution, pooling."""

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from .operation import F32, INT8, INT32, Operation
from .sparsity_checks import check_hybrid_limits
from .tensor_checks import MAX_BYTES, Tensor

_MAX_STRIDE = 2**16
_MAX_MULTIPLIER = 256


def check_fully_connected(operation: Operation) -> None:
    """Check FULLY_CONNECTED: types, shapes, and what its sparse kernels take for granted."""
    inputs, weights, output = operation.input(0), operation.input(1), operation.outputs[0]
    options = operation.options
    operation.require_fused_activation()
    operation.require(
        options.weightsFormat == schema.FullyConnectedOptionsWeightsFormat.DEFAULT,
        "weights in the default format",
        options.weightsFormat,
    )
    operation.require(
        options.quantizedBiasType in (0, INT32), "a bias of int32", options.quantizedBiasType
    )
    operation.require_rank(weights, 2)
    units, columns = weights.shape
    _check_weight_types(operation, channel_axis=0)
    bias = operation.inputs[2] if len(operation.inputs) > 2 else None
    if bias is not None:
        _check_bias(operation, bias, units)
    operation.require(
        inputs.size % columns == 0, f"{inputs.where} in multiples of {columns}", inputs.shape
    )
    if weights.sparsity is not None or options.keepNumDims:
        received = inputs.shape
        operation.require(
            received and received[-1] == columns, f"{columns} inputs of {inputs.where}", received
        )
    if options.keepNumDims:
        operation.require_shape(output, (*inputs.shape[:-1], units))
    else:
        operation.require_shape(output, (inputs.size // columns, units))
    if weights.type == INT8 and inputs.type == F32:
        check_hybrid_limits(operation.where, weights)


def check_convolution(operation: Operation) -> None:
    """Check CONV_2D."""
    inputs, weights = operation.input(0), operation.input(1)
    operation.require_rank(inputs, 4)
    operation.require_rank(weights, 4)
    filters, height, width, channels = weights.shape
    operation.require(
        inputs.shape[3] % channels == 0 and filters % (inputs.shape[3] // channels) == 0,
        f"groups of {channels} channels that {filters} filters share evenly",
        f"{inputs.shape[3]} channels",
    )
    _check_weight_types(operation, channel_axis=0)
    _check_bias(operation, operation.input(2), filters)
    _check_windows(operation, (height, width), filters, depth=channels)


def check_depthwise_convolution(operation: Operation) -> None:
    """Check DEPTHWISE_CONV_2D."""
    inputs, weights = operation.input(0), operation.input(1)
    operation.require_rank(inputs, 4)
    operation.require_rank(weights, 4)
    _, height, width, filters = weights.shape
    multiplier = operation.options.depthMultiplier
    operation.require(weights.shape[0] == 1, "one filter for each channel", weights.shape)
    operation.require(
        filters == inputs.shape[3] * multiplier,
        f"{filters} filters for {inputs.shape[3]} channels",
        f"a depth multiplier of {multiplier}",
    )
    _check_weight_types(operation, channel_axis=3)
    # The kernel reads a bias even where there is none.
    _check_bias(operation, operation.input(2), filters)
    _check_windows(operation, (height, width), filters, depth=1)


def check_pooling(operation: Operation) -> None:
    """Check MAX_POOL_2D and AVERAGE_POOL_2D."""
    inputs, output, options = operation.input(0), operation.outputs[0], operation.options
    operation.require_rank(inputs, 4)
    operation.require_types(inputs, F32, INT8)
    operation.require_types(output, inputs.type)
    window = (options.filterHeight, options.filterWidth)
    # A larger window would only add padding.
    operation.require(
        all(
            1 <= size <= 2 * extent for size, extent in zip(window, inputs.shape[1:3], strict=True)
        ),
        f"a window of at most twice {inputs.shape[1:3]}",
        window,
    )
    _check_windows(operation, window, inputs.shape[3], depth=1)


def _check_weight_types(operation: Operation, channel_axis: int) -> None:
    """Check the types of input, weights and output: float32, int8, or int8 weights alone."""
    inputs, weights, output = operation.input(0), operation.input(1), operation.outputs[0]
    operation.require_types(inputs, F32, INT8)
    operation.require_types(output, inputs.type)
    if weights.type != INT8 or inputs.type == INT8:
        names = (weights.dtype, inputs.dtype)
        operation.require(weights.type == inputs.type, "weights of the type of the input", names)
    if weights.type == INT8:
        counts = (1, weights.shape[channel_axis])
        received = len(weights.scales)
        operation.require(received in counts, f"one of {counts} scales of the weights", received)
        operation.require(
            received == 1 or weights.channel_axis == channel_axis,
            f"a scale for each index of axis {channel_axis} of the weights",
            f"axis {weights.channel_axis}",
        )
        operation.require(not weights.zero_points.any(), "symmetric weights", weights.zero_points)
    if inputs.type == INT8:
        # Computed as in XNNPACK, which frees a convolution twice if this is too large.
        multiplier = float((inputs.scales[0] * weights.scales / output.scales[0]).max())
        operation.require(
            multiplier < _MAX_MULTIPLIER,
            f"input times weight scales below {_MAX_MULTIPLIER} times the output's",
            multiplier,
        )


def _check_bias(operation: Operation, bias: Tensor, channels: int) -> None:
    operation.require_shape(bias, (channels,))
    operation.require_types(bias, F32 if operation.input(0).type == F32 else INT32)


def _check_windows(
    operation: Operation, window: tuple[int, int], channels: int, depth: int
) -> None:
    """Check strides, dilations, the output's shape, and the memory that windows side by side take.

    Args:
        operation: A convolution or pooling.
        window: Height and width of the filter.
        channels: Number of channels of the output.
        depth: Number of channels that a filter reads.
    """
    inputs, output, options = operation.input(0), operation.outputs[0], operation.options
    operation.require_fused_activation()
    is_same = options.padding == schema.Padding.SAME
    operation.require(
        is_same or options.padding == schema.Padding.VALID,
        "padding SAME or VALID",
        options.padding,
    )
    strides = (options.strideH, options.strideW)
    # Pooling has no dilation.
    dilations = (
        getattr(options, "dilationHFactor", 1),
        getattr(options, "dilationWFactor", 1),
    )
    operation.require(
        all(1 <= step <= _MAX_STRIDE for step in (*strides, *dilations)),
        f"strides and dilations of 1 to {_MAX_STRIDE}",
        (strides, dilations),
    )
    extents = []
    for size, extent, stride, dilation in zip(
        window, inputs.shape[1:3], strides, dilations, strict=True
    ):
        reach = 0 if is_same else (size - 1) * dilation
        operation.require(
            extent > reach, f"more than {reach} pixels of {inputs.where}", inputs.shape
        )
        extents.append(-(-(extent - reach) // stride))
    operation.require_shape(output, (inputs.shape[0], extents[0], extents[1], channels))
    unrolled = int(np.prod([inputs.shape[0], *extents, *window, depth], dtype=object)) * 8
    operation.require(
        unrolled <= MAX_BYTES, f"windows of at most {MAX_BYTES} bytes", f"{unrolled} bytes"
    )
