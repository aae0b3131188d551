"""Checks of the operators that move values, or choose, join or reduce them along axes."""

from .operation import F32, INT8, INT32, Operation
from .tensor_checks import integers


def check_reshape(operation: Operation) -> None:
    """Check RESHAPE."""
    inputs, output = operation.input(0), operation.outputs[0]
    operation.require_types(inputs, F32, INT8, INT32)
    operation.require_types(output, inputs.type)
    operation.require(output.size == inputs.size, f"{inputs.size} values", output.shape)
    if len(operation.inputs) == 2:
        wanted = operation.constant_integers(1)
    else:
        operation.require(operation.options is not None, "a shape", "none")
        wanted = integers(operation.options.newShape)
    fits = len(wanted) == len(output.shape) and wanted.count(-1) <= 1
    operation.require(
        fits and all(a in (-1, b) for a, b in zip(wanted, output.shape, strict=True)),
        f"shape {output.shape} to be asked for",
        wanted,
    )


def check_squeeze(operation: Operation) -> None:
    """Check SQUEEZE."""
    inputs, output = operation.input(0), operation.outputs[0]
    operation.require_types(inputs, F32, INT8, INT32)
    operation.require_types(output, inputs.type)
    axes = {operation.axis(axis, inputs) for axis in integers(operation.options.squeezeDims)}
    gone = axes or {axis for axis, size in enumerate(inputs.shape) if size == 1}
    operation.require(all(inputs.shape[axis] == 1 for axis in gone), "axes of 1", inputs.shape)
    kept = tuple(size for axis, size in enumerate(inputs.shape) if axis not in gone)
    operation.require_shape(output, kept)


def check_expand_dims(operation: Operation) -> None:
    """Check EXPAND_DIMS."""
    inputs, output = operation.input(0), operation.outputs[0]
    operation.require_types(inputs, F32, INT8, INT32)
    operation.require_types(output, inputs.type)
    axes = operation.constant_integers(1)
    operation.require(len(axes) == 1, "one axis", axes)
    axis = operation.axis(axes[0], output)
    operation.require_shape(output, (*inputs.shape[:axis], 1, *inputs.shape[axis:]))


def check_transpose(operation: Operation) -> None:
    """Check TRANSPOSE."""
    inputs, output = operation.input(0), operation.outputs[0]
    operation.require_types(inputs, F32, INT8, INT32)
    operation.require_types(output, inputs.type)
    order = operation.constant_integers(1)
    operation.require(
        sorted(order) == list(range(len(inputs.shape))), f"an order of {inputs.shape}", order
    )
    operation.require_shape(output, tuple(inputs.shape[axis] for axis in order))


def check_pad(operation: Operation) -> None:
    """Check PAD."""
    inputs, output = operation.input(0), operation.outputs[0]
    operation.require_types(inputs, F32, INT8)
    operation.require_types(output, inputs.type)
    rank = len(inputs.shape)
    padding = operation.constant_integers(1)
    operation.require_shape(operation.input(1), (rank, 2))
    operation.require(rank <= 4 and min(padding) >= 0, "padding of 0 or more, 4 axes", padding)
    operation.require_shape(
        output,
        tuple(
            before + size + after
            for before, size, after in zip(padding[::2], inputs.shape, padding[1::2], strict=True)
        ),
    )


def check_concatenation(operation: Operation) -> None:
    """Check CONCATENATION."""
    output = operation.outputs[0]
    operation.require_types(output, F32, INT8, INT32)
    operation.require_fused_activation()
    axis = operation.axis(operation.options.axis, output)
    total = 0
    for place in range(len(operation.inputs)):
        tensor = operation.input(place)
        operation.require_types(tensor, output.type)
        operation.require_rank(tensor, len(output.shape))
        total += tensor.shape[axis]
        operation.require_shape(
            tensor, (*output.shape[:axis], tensor.shape[axis], *output.shape[axis + 1 :])
        )
    operation.require(total == output.shape[axis], f"{output.shape[axis]} in all", total)


def check_gather(operation: Operation) -> None:
    """Check GATHER."""
    inputs, places, output = operation.input(0), operation.input(1), operation.outputs[0]
    operation.require_types(inputs, F32, INT8, INT32)
    operation.require_types(output, inputs.type)
    axis = operation.axis(operation.options.axis, inputs)
    operation.require(operation.options.batchDims == 0, "no batch axes", "some")
    found = operation.constant_integers(1)
    size = inputs.shape[axis]
    operation.require(
        all(0 <= place < size for place in found), f"places 0 to {size - 1}", "others"
    )
    operation.require_shape(
        output, (*inputs.shape[:axis], *places.shape, *inputs.shape[axis + 1 :])
    )


def check_reduction(operation: Operation) -> None:
    """Check MEAN, SUM and REDUCE_MAX."""
    inputs, output = operation.input(0), operation.outputs[0]
    operation.require_types(inputs, F32, INT8)
    operation.require_types(output, inputs.type)
    axes = {operation.axis(axis, inputs) for axis in operation.constant_integers(1)}
    keeps = operation.options.keepDims
    shape = tuple(
        1 if axis in axes else size
        for axis, size in enumerate(inputs.shape)
        if keeps or axis not in axes
    )
    operation.require_shape(output, shape)
