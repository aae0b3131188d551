"""Checks of operators: which there are, and what each expects of its tensors and options."""

import dataclasses
from collections.abc import Callable

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from .errors import InvalidFile
from .layer_checks import (
    check_convolution,
    check_depthwise_convolution,
    check_fully_connected,
    check_pooling,
)
from .operation import BOOL, F16, F32, INT8, INT32, UINT8, Operation
from .shape_checks import (
    check_concatenation,
    check_expand_dims,
    check_gather,
    check_pad,
    check_reduction,
    check_reshape,
    check_squeeze,
    check_transpose,
)

Check = Callable[[Operation], None]


@dataclasses.dataclass(frozen=True)
class Rule:
    """What is required of an operator.

    Args:
        check: Checks its tensors and options.
        inputs: The fewest and the most inputs.
        options: Name of its options in the schema, if it has any.
        needs_options: Whether they must not be missing, because the runtime would then take zeros,
            such as for a stride.
    """

    check: Check
    inputs: tuple[int, int]
    options: str | None = None
    needs_options: bool = True


def _unary(*types: int) -> Check:
    def check(operation: Operation) -> None:
        inputs, output = operation.input(0), operation.outputs[0]
        operation.require_types(inputs, *types)
        operation.require_types(output, inputs.type)
        operation.require_shape(output, inputs.shape)

    return check


def _binary(*types: int, result: int | None = None) -> Check:
    def check(operation: Operation) -> None:
        first, second, output = operation.input(0), operation.input(1), operation.outputs[0]
        operation.require_types(first, *types)
        operation.require_types(second, first.type)
        operation.require_types(output, first.type if result is None else result)
        operation.require_shape(output, _broadcast(operation, first.shape, second.shape))
        if hasattr(operation.options, "fusedActivationFunction"):
            operation.require_fused_activation()

    return check


def _broadcast(operation: Operation, *shapes: tuple[int, ...]) -> tuple[int, ...]:
    # Some kernels count positions along four axes, however many there are.
    operation.require(all(len(shape) <= 4 for shape in shapes), "at most 4 axes", shapes)
    try:
        return np.broadcast_shapes(*shapes)
    except ValueError:
        raise InvalidFile(
            f"{operation.where}: expected shapes that broadcast. Received: {shapes}"
        ) from None


def _comparison(operation: Operation) -> None:
    _binary(F32, INT8, INT32, result=BOOL)(operation)
    if operation.input(0).type == INT8:
        # The int8 kernels handle multipliers above and below 1, but abort on 1 itself.
        scales = [float(operation.input(place).scales[0]) for place in (0, 1)]
        operation.require(1.0 not in scales, "scales other than 1", scales)


def _scaled_sum(operation: Operation) -> None:
    """Check ADD and SUB; their int8 kernels abort unless the scales fit 20 bits of precision."""
    _binary(F32, INT8, INT32)(operation)
    _check_precision(operation, power=1, bits=19)


def _squared_difference(operation: Operation) -> None:
    _binary(F32, INT8)(operation)
    _check_precision(operation, power=2, bits=13)


def _check_precision(operation: Operation, power: int, bits: int) -> None:
    """Check scales that the kernel shifts by `bits + 1`; it aborts if they are rounded up to 1."""
    output = operation.outputs[0]
    if output.type == INT8:
        largest = max(float(operation.input(place).scales[0]) for place in (0, 1))
        ratio = (2 * largest) ** power / float(output.scales[0])
        operation.require(ratio < 2**bits, f"scales with a ratio below 2^{bits}", ratio)


def _densify(operation: Operation) -> None:
    inputs, output = operation.input(0), operation.outputs[0]
    operation.require(inputs.sparsity is not None, "a sparse input", "a dense one")
    operation.require_types(output, inputs.type)
    operation.require_shape(output, inputs.shape)


def _quantize(operation: Operation) -> None:
    inputs, output = operation.input(0), operation.outputs[0]
    operation.require_types(inputs, F32, INT8, UINT8)
    operation.require_types(output, INT8, UINT8)
    operation.require_shape(output, inputs.shape)


def _dequantize(operation: Operation) -> None:
    inputs, output = operation.input(0), operation.outputs[0]
    operation.require(
        inputs.type in (F16, INT8, UINT8), "an input of float16, int8 or uint8", inputs.dtype
    )
    is_quantized = inputs.type != F16
    operation.require(not is_quantized or len(inputs.scales), "scales of the input", "none")
    operation.require_types(output, F32)
    operation.require_shape(output, inputs.shape)


def _softmax(operation: Operation) -> None:
    _unary(F32, INT8)(operation)
    beta = operation.options.beta
    operation.require(1e-3 <= beta <= 1e3, "a beta of 0.001 to 1000", beta)
    shape = operation.input(0).shape
    operation.require(1 <= len(shape) <= 4, "1 to 4 axes", shape)


def _leaky_relu(operation: Operation) -> None:
    _unary(F32, INT8)(operation)
    alpha = operation.options.alpha
    operation.require(abs(alpha) <= 1e3, "a slope of at most 1000", alpha)


def _prelu(operation: Operation) -> None:
    _binary(F32, INT8)(operation)
    operation.require_shape(operation.outputs[0], operation.input(0).shape)


def _select(operation: Operation) -> None:
    condition, first, second = (operation.input(place) for place in range(3))
    output = operation.outputs[0]
    operation.require_types(condition, BOOL)
    operation.require_types(first, F32, INT8, INT32)
    operation.require_types(second, first.type)
    operation.require_types(output, first.type)
    operation.require_shape(
        output, _broadcast(operation, condition.shape, first.shape, second.shape)
    )


_FLOAT = _unary(F32)
_FLOAT_OR_INT8 = _unary(F32, INT8)

RULES: dict[str, Rule] = {
    "ABS": Rule(_FLOAT, (1, 1), "AbsOptions", False),
    "ADD": Rule(_scaled_sum, (2, 2), "AddOptions"),
    "AVERAGE_POOL_2D": Rule(check_pooling, (1, 1), "Pool2DOptions"),
    "CONCATENATION": Rule(check_concatenation, (1, 64), "ConcatenationOptions"),
    "CONV_2D": Rule(check_convolution, (3, 3), "Conv2DOptions"),
    "DENSIFY": Rule(_densify, (1, 1), "DensifyOptions", False),
    "DEPTHWISE_CONV_2D": Rule(check_depthwise_convolution, (3, 3), "DepthwiseConv2DOptions"),
    "DEQUANTIZE": Rule(_dequantize, (1, 1), "DequantizeOptions", False),
    "DIV": Rule(_binary(F32), (2, 2), "DivOptions"),
    "ELU": Rule(_FLOAT, (1, 1)),
    "EXP": Rule(_FLOAT_OR_INT8, (1, 1), "ExpOptions", False),
    "EXPAND_DIMS": Rule(check_expand_dims, (2, 2), "ExpandDimsOptions", False),
    "FULLY_CONNECTED": Rule(check_fully_connected, (2, 3), "FullyConnectedOptions"),
    "GATHER": Rule(check_gather, (2, 2), "GatherOptions"),
    "GELU": Rule(_FLOAT_OR_INT8, (1, 1), "GeluOptions"),
    "GREATER": Rule(_comparison, (2, 2), "GreaterOptions", False),
    "GREATER_EQUAL": Rule(_comparison, (2, 2), "GreaterEqualOptions", False),
    "HARD_SWISH": Rule(_FLOAT_OR_INT8, (1, 1), "HardSwishOptions", False),
    "LEAKY_RELU": Rule(_leaky_relu, (1, 1), "LeakyReluOptions"),
    "LESS": Rule(_comparison, (2, 2), "LessOptions", False),
    "LESS_EQUAL": Rule(_comparison, (2, 2), "LessEqualOptions", False),
    "LOG": Rule(_FLOAT_OR_INT8, (1, 1)),
    "LOGISTIC": Rule(_FLOAT_OR_INT8, (1, 1)),
    "LOG_SOFTMAX": Rule(_FLOAT, (1, 1), "LogSoftmaxOptions", False),
    "MAXIMUM": Rule(_binary(F32, INT8), (2, 2), "MaximumMinimumOptions", False),
    "MAX_POOL_2D": Rule(check_pooling, (1, 1), "Pool2DOptions"),
    "MEAN": Rule(check_reduction, (2, 2), "ReducerOptions"),
    "MINIMUM": Rule(_binary(F32, INT8), (2, 2), "MaximumMinimumOptions", False),
    "MUL": Rule(_binary(F32, INT8, INT32), (2, 2), "MulOptions"),
    "NEG": Rule(_FLOAT, (1, 1), "NegOptions", False),
    "PAD": Rule(check_pad, (2, 2), "PadOptions", False),
    "PRELU": Rule(_prelu, (2, 2)),
    "QUANTIZE": Rule(_quantize, (1, 1), "QuantizeOptions", False),
    "REDUCE_MAX": Rule(check_reduction, (2, 2), "ReducerOptions"),
    "RELU": Rule(_FLOAT_OR_INT8, (1, 1)),
    "RELU6": Rule(_FLOAT_OR_INT8, (1, 1)),
    "RELU_N1_TO_1": Rule(_FLOAT_OR_INT8, (1, 1)),
    "RESHAPE": Rule(check_reshape, (1, 2), "ReshapeOptions", False),
    "RSQRT": Rule(_FLOAT_OR_INT8, (1, 1)),
    "SELECT": Rule(_select, (3, 3), "SelectOptions", False),
    "SELECT_V2": Rule(_select, (3, 3), "SelectV2Options", False),
    "SOFTMAX": Rule(_softmax, (1, 1), "SoftmaxOptions"),
    "SQRT": Rule(_FLOAT, (1, 1)),
    "SQUARE": Rule(_FLOAT, (1, 1), "SquareOptions", False),
    "SQUARED_DIFFERENCE": Rule(_squared_difference, (2, 2), "SquaredDifferenceOptions", False),
    "SQUEEZE": Rule(check_squeeze, (1, 1), "SqueezeOptions"),
    "SUB": Rule(_scaled_sum, (2, 2), "SubOptions"),
    "SUM": Rule(check_reduction, (2, 2), "ReducerOptions"),
    "TANH": Rule(_FLOAT_OR_INT8, (1, 1)),
    "TRANSPOSE": Rule(check_transpose, (2, 2), "TransposeOptions", False),
}
"""The operators that Keras layers are converted to, by name; we can't judge any others."""

NAMES = {
    value: name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)
}
