"""Sparse tensors in the terms of the TFLite schema."""

from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from .csr import SparseTensor

INDEX_VECTORS: dict[np.dtype, tuple[int, Any]] = {
    np.dtype(np.uint8): (schema.SparseIndexVector.Uint8Vector, schema.Uint8VectorT),
    np.dtype(np.uint16): (schema.SparseIndexVector.Uint16Vector, schema.Uint16VectorT),
    np.dtype(np.int32): (schema.SparseIndexVector.Int32Vector, schema.Int32VectorT),
}
"""The schema's type of an index vector, by dtype: its number in the union, and its class."""


def parameters_of(sparse: SparseTensor) -> schema.SparsityParametersT:
    """Return what a file stores about a sparse tensor besides its values.

    All axes but the last are dense, the last is compressed, and a block, if there is one, is one
    more dense axis that belongs to the last: the format of TensorFlow's converter.
    """
    axes = len(sparse.shape)
    parameters = schema.SparsityParametersT(
        traversalOrder=list(range(axes)),
        dimMetadata=[*map(_dense, sparse.shape[:-1]), _compressed(sparse)],
    )
    if sparse.block > 1:
        parameters.traversalOrder.append(axes)
        parameters.blockMap = [axes - 1]
        parameters.dimMetadata.append(_dense(sparse.block))
    return parameters


def sparse_tensor(
    shape: tuple[int, ...], parameters: schema.SparsityParametersT, values: np.ndarray
) -> SparseTensor:
    """Return the sparse tensor that a file has; the inverse of `parameters_of`.

    Args:
        shape: Shape of the dense tensor.
        parameters: Valid parameters in the format of `parameters_of`.
        values: The values, of shape (count,).
    """
    dimensions = parameters.dimMetadata
    compressed = dimensions[len(shape) - 1]
    return SparseTensor(
        shape,
        dimensions[-1].denseSize if len(dimensions) > len(shape) else 1,
        np.asarray(compressed.arraySegments.values),
        np.asarray(compressed.arrayIndices.values),
        values,
    )


def _dense(size: int) -> schema.DimensionMetadataT:
    return schema.DimensionMetadataT(format=schema.DimensionType.DENSE, denseSize=size)


def _compressed(sparse: SparseTensor) -> schema.DimensionMetadataT:
    segments_type, segments = _index_vector(sparse.segments)
    indices_type, indices = _index_vector(sparse.indices)
    return schema.DimensionMetadataT(
        format=schema.DimensionType.SPARSE_CSR,
        arraySegmentsType=segments_type,
        arraySegments=segments,
        arrayIndicesType=indices_type,
        arrayIndices=indices,
    )


def _index_vector(indices: np.ndarray) -> tuple[int, Any]:
    number, vector = INDEX_VECTORS[indices.dtype]
    return number, vector(values=indices)
