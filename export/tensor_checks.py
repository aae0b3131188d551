"""Checks of a tensor: its type, shape, data and quantisation."""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from .errors import InvalidFile

TYPES: dict[int, np.dtype] = {
    schema.TensorType.FLOAT32: np.dtype("<f4"),
    schema.TensorType.FLOAT16: np.dtype("<f2"),
    schema.TensorType.INT64: np.dtype("<i8"),
    schema.TensorType.INT32: np.dtype("<i4"),
    schema.TensorType.INT8: np.dtype("i1"),
    schema.TensorType.UINT8: np.dtype("u1"),
    schema.TensorType.BOOL: np.dtype("?"),
}
"""The types that converted Keras layers have; a runtime knows more, but we can't judge them."""

MAX_RANK = 6
"""With more axes than kernels reserve room for, they read past the end of that room."""

MAX_BYTES = 2**30
"""Limit for activations, and for what a kernel makes of them: more is damage, not a network."""

_SCALES = (1e-30, 1e30)
"""Multipliers made of scales in this range are finite; kernels abort on others."""


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor that was checked.

    Args:
        where: Its name in messages.
        type: Number of its type in the schema.
        shape: Its shape.
        data: The bytes of a constant, else `None`.
        scales: Scales of the quantisation, of shape (1,) or (channels,), or (0,) if there are none.
        zero_points: Zero points, of the shape of `scales`.
        channel_axis: The axis of the channels that have a scale each.
        sparsity: What the file says about a sparse constant.
    """

    where: str
    type: int
    shape: tuple[int, ...]
    data: np.ndarray | None
    scales: np.ndarray
    zero_points: np.ndarray
    channel_axis: int
    sparsity: schema.SparsityParametersT | None

    @property
    def dtype(self) -> np.dtype:
        """Type of the values."""
        return TYPES[self.type]

    @property
    def size(self) -> int:
        """Number of values of the dense tensor."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the dense tensor."""
        return self.size * self.dtype.itemsize

    @property
    def values(self) -> np.ndarray | None:
        """The values of a dense constant, in its shape, else `None`."""
        if self.data is None or self.sparsity is not None:
            return None
        return self.data.view(self.dtype).reshape(self.shape)


def require(condition: Any, where: str, expected: str, received: object) -> None:
    """Raise `InvalidFile` with a message of three parts unless a condition holds."""
    if not condition:
        raise InvalidFile(f"{where}: expected {expected}. Received: {received}")


def integers(vector: Sequence[int] | np.ndarray | None) -> list[int]:
    """Return a vector of the object model, which may be missing, as Python's integers."""
    return [] if vector is None else [int(number) for number in vector]


def check_tensor(where: str, tensor: schema.TensorT, buffers: Sequence[schema.BufferT]) -> Tensor:
    """Check everything about a single tensor except its sparsity.

    Args:
        where: Its name in messages.
        tensor: The tensor.
        buffers: The model's buffers.

    Raises:
        InvalidFile: If it is wrong; the message says what, where, and what was expected.
    """
    known = sorted(str(dtype) for dtype in TYPES.values())
    require(tensor.type in TYPES, where, f"one of the types {known}", f"type {tensor.type}")
    shape = tuple(integers(tensor.shape))
    require(len(shape) <= MAX_RANK, where, f"at most {MAX_RANK} axes", f"shape {shape}")
    require(all(size > 0 for size in shape), where, "axes of one or more", f"shape {shape}")
    _check_signature(where, shape, integers(tensor.shapeSignature))
    require(
        0 <= tensor.buffer < len(buffers),
        where,
        f"one of the {len(buffers)} buffers",
        f"buffer {tensor.buffer}",
    )
    require(
        not (tensor.isVariable or tensor.externalBuffer or tensor.variantTensors),
        where,
        "a tensor that keeps no state and refers to nothing outside of the file",
        "a variable, variant or external one",
    )
    data = buffers[tensor.buffer].data
    checked = Tensor(
        where,
        tensor.type,
        shape,
        None if data is None else np.asarray(data, np.uint8),
        *_quantization(where, tensor, shape),
        tensor.sparsity,
    )
    require(checked.nbytes <= MAX_BYTES, where, f"at most {MAX_BYTES} bytes", f"shape {shape}")
    _check_data(checked)
    return checked


def _check_signature(where: str, shape: tuple[int, ...], signature: list[int]) -> None:
    fits = len(signature) == len(shape) and all(
        size in (-1, actual) for size, actual in zip(signature, shape, strict=False)
    )
    require(fits or not signature, where, f"a signature of shape {shape}", signature)


def _check_data(tensor: Tensor) -> None:
    if tensor.data is None:
        require(tensor.sparsity is None, tensor.where, "values of a sparse tensor", "no buffer")
    elif tensor.sparsity is None:
        require(
            len(tensor.data) == tensor.nbytes,
            tensor.where,
            f"{tensor.nbytes} bytes for {tensor.dtype} of shape {tensor.shape}",
            f"{len(tensor.data)} bytes",
        )


def _quantization(
    where: str, tensor: schema.TensorT, shape: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray, int]:
    """Check and return scales, zero points and the axis of the channels."""
    quantization = tensor.quantization or schema.QuantizationParametersT()
    require(
        quantization.detailsType == 0 and quantization.details is None,
        where,
        "a scale for the tensor or for each channel",
        f"quantisation of kind {quantization.detailsType}",
    )
    scales = _vector(quantization.scale, np.float32)
    points = _vector(quantization.zeroPoint, np.int64)
    if len(scales) == 0:
        return scales, points[:0], 0
    axis = int(quantization.quantizedDimension)
    require(0 <= axis < max(len(shape), 1), where, f"a channel axis of {shape}", f"axis {axis}")
    counts = (1, shape[axis] if shape else 1)
    require(len(scales) in counts, where, f"one of {counts} scales", f"{len(scales)} scales")
    require(
        len(points) == len(scales), where, f"{len(scales)} zero points", f"{len(points)} of them"
    )
    low, high = _SCALES
    require(
        np.all((scales >= low) & (scales <= high)),
        where,
        f"scales within {low} and {high}",
        _extremes(scales),
    )
    if tensor.type in (schema.TensorType.INT8, schema.TensorType.UINT8):
        limits = np.iinfo(TYPES[tensor.type])
        require(
            np.all((points >= limits.min) & (points <= limits.max)),
            where,
            f"zero points within {limits.min} and {limits.max}",
            _extremes(points),
        )
    else:
        require(not points.any(), where, "zero points of 0", _extremes(points))
    return scales, points, axis


def _vector(numbers: Iterable[float] | None, dtype: type) -> np.ndarray:
    return np.asarray([] if numbers is None else numbers, dtype)


def _extremes(numbers: np.ndarray) -> str:
    return f"{numbers.min()} to {numbers.max()}"
