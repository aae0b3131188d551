"""Checks of sparse tensors: a runtime trusts what a file says about them and reads out of bounds.

The kernels verify only that indices are not too large. Short or falling segments, negative indices
and missing values crash them, or make them compute with whatever lies beside the data.
"""

import math
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from .csr import BLOCKS, HYBRID_BLOCKS, Storage
from .errors import InvalidFile
from .sparsify import SPARSE_FULLY_CONNECTED
from .sparsity_parameters import INDEX_VECTORS
from .tensor_checks import Tensor, integers, require

_STORAGES = {
    (schema.TensorType.FLOAT32, 1): "a fully connected layer or DENSIFY",
    (schema.TensorType.FLOAT16, 1): "DENSIFY",
    (schema.TensorType.FLOAT32, BLOCKS[Storage.BLOCK4]): "a fully connected layer",
    (schema.TensorType.INT8, BLOCKS[Storage.BLOCK16]): "a fully connected layer",
}
"""By type and size of blocks, what has a kernel that reads it."""


def check_sparsity(tensor: Tensor) -> None:
    """Check everything that a file says about a sparse constant.

    Args:
        tensor: A tensor whose shape, type and quantisation were checked.

    Raises:
        InvalidFile: If it is wrong; the message says what, where, and what was expected.
    """
    where, rank = tensor.where, len(tensor.shape)
    parameters: Any = tensor.sparsity
    require(rank >= 2, where, "two or more axes of a sparse tensor", f"shape {tensor.shape}")
    dimensions = parameters.dimMetadata or []
    has_blocks = len(dimensions) > rank
    order = list(range(rank + has_blocks))
    traversal = integers(parameters.traversalOrder)
    require(traversal == order, where, f"traversal order {order}", traversal)
    block_map = integers(parameters.blockMap)
    expected_map = [rank - 1] if has_blocks else []
    require(block_map == expected_map, where, f"block map {expected_map}", block_map)
    require(len(dimensions) == len(order), where, f"{len(order)} dimensions", f"{len(dimensions)}")
    for axis, size in enumerate(tensor.shape[:-1]):
        _check_dense(f"{where}, dimension {axis}", dimensions[axis], size)
    block = 1
    if has_blocks:
        block = int(dimensions[-1].denseSize)
        _check_dense(f"{where}, dimension {rank}", dimensions[-1], block)
    require(
        (tensor.type, block) in _STORAGES and has_blocks == (block > 1),
        where,
        "float without blocks, float32 in blocks of 4 or int8 in blocks of 16",
        f"{tensor.dtype} in blocks of {block}",
    )
    require(
        tensor.shape[-1] % block == 0, where, f"a multiple of {block} columns", tensor.shape[-1]
    )
    count = _check_compressed(
        f"{where}, dimension {rank - 1}",
        dimensions[rank - 1],
        rows=math.prod(tensor.shape[:-1]),
        columns=tensor.shape[-1] // block,
    )
    expected_bytes = count * block * tensor.dtype.itemsize
    received = 0 if tensor.data is None else len(tensor.data)
    require(received == expected_bytes, where, f"{expected_bytes} bytes of values", received)


def check_sparse_reader(
    where: str, operator: int, version: int, place: int, tensor: Tensor
) -> None:
    """Check that an operator can read a sparse tensor as one of its inputs.

    Args:
        where: The operator's name in messages.
        operator: Its number in the schema.
        version: Its version in the file.
        place: Which input the tensor is.
        tensor: A sparse tensor.

    Raises:
        InvalidFile: If it would read it as something else.
    """
    readers = _STORAGES[tensor.type, _block(tensor)]
    name = "DENSIFY" if operator == schema.BuiltinOperator.DENSIFY else "a fully connected layer"
    is_weight = operator == schema.BuiltinOperator.FULLY_CONNECTED and place == 1
    require(
        (is_weight or operator == schema.BuiltinOperator.DENSIFY) and name in readers,
        where,
        f"a dense input {place}, or {readers} to read {tensor.where}",
        f"a sparse one of {tensor.dtype} in blocks of {_block(tensor)}",
    )
    if is_weight:
        # In any other version, XNNPACK reads the values as if they were dense.
        require(
            version == SPARSE_FULLY_CONNECTED, where, f"version {SPARSE_FULLY_CONNECTED}", version
        )


def check_hybrid_limits(where: str, weights: Tensor) -> None:
    """Check that counts and numbers of int8 blocks fit the one byte that the hybrid kernel has."""
    if weights.sparsity is None:
        return
    compressed = weights.sparsity.dimMetadata[1]
    segments = np.asarray(compressed.arraySegments.values).astype(np.int64)
    largest = int(np.max(compressed.arrayIndices.values, initial=0))
    fullest = int(np.diff(segments).max())
    require(
        largest <= HYBRID_BLOCKS and fullest <= HYBRID_BLOCKS,
        where,
        f"at most {HYBRID_BLOCKS} blocks in a row, and none beyond number {HYBRID_BLOCKS}",
        f"{fullest} blocks and number {largest}",
    )


def _block(tensor: Tensor) -> int:
    parameters: Any = tensor.sparsity
    dimensions = parameters.dimMetadata
    return int(dimensions[-1].denseSize) if len(dimensions) > len(tensor.shape) else 1


def _check_dense(where: str, dimension: schema.DimensionMetadataT, size: int) -> None:
    is_dense = dimension.format == schema.DimensionType.DENSE
    require(is_dense, where, "a dense dimension", f"format {dimension.format}")
    require(dimension.denseSize == size, where, f"size {size}", dimension.denseSize)


def _check_compressed(
    where: str, dimension: schema.DimensionMetadataT, rows: int, columns: int
) -> int:
    """Check segments and indices; return the number of indices."""
    is_compressed = dimension.format == schema.DimensionType.SPARSE_CSR
    require(is_compressed, where, "a compressed dimension", f"format {dimension.format}")
    segments = _index_vector(
        f"{where}, segments", dimension.arraySegmentsType, dimension.arraySegments
    )
    indices = _index_vector(f"{where}, indices", dimension.arrayIndicesType, dimension.arrayIndices)
    require(len(segments) == rows + 1, f"{where}, segments", f"{rows + 1} of them", len(segments))
    require(segments[0] == 0, f"{where}, segments", "a start at 0", segments[0])
    steps = np.diff(segments)
    require(np.all(steps >= 0), f"{where}, segments", "none below the one before", steps.min())
    require(
        segments[-1] == len(indices),
        f"{where}, segments",
        f"an end at {len(indices)}, the number of indices",
        segments[-1],
    )
    if len(indices):
        low, high = indices.min(), indices.max()
        require(
            low >= 0 and high < columns,
            f"{where}, indices",
            f"0 to {columns - 1}",
            f"{low} to {high}",
        )
        starts_row = np.zeros(len(indices) + 1, bool)
        starts_row[segments] = True
        rises = np.diff(indices) > 0
        require(
            np.all(rises | starts_row[1:-1]),
            f"{where}, indices",
            "each above the one before in its row",
            "one that is not",
        )
    return len(indices)


def _index_vector(where: str, number: int, vector: Any) -> np.ndarray:
    """Return an index vector as int64, after checking that it is one."""
    for dtype, (known, kind) in INDEX_VECTORS.items():
        if number == known and type(vector) is kind and vector.values is not None:
            return np.asarray(vector.values, dtype).astype(np.int64)
    raise InvalidFile(
        f"{where}: expected an index vector of uint8, uint16 or int32. Received: type {number}"
    )
