"""Sparse matrices as TFLite stores them: rows of non-zeros, or of blocks with a non-zero."""

import dataclasses
import enum
import math

import numpy as np


class Storage(enum.StrEnum):
    """How a file holds a weight."""

    DENSE = "dense"
    """All values; every runtime reads it."""
    CSR = "csr"
    """float32 non-zeros, read by FULLY_CONNECTED as they are."""
    BLOCK4 = "block4"
    """float32 blocks of four inputs with a non-zero, read by FULLY_CONNECTED as they are."""
    BLOCK16 = "block16"
    """int8 blocks of sixteen inputs with a non-zero, read by FULLY_CONNECTED as they are."""
    DENSIFY = "densify"
    """float32 non-zeros, unpacked when loaded: as fast as `DENSE`, with more memory."""


BLOCKS = {Storage.CSR: 1, Storage.DENSIFY: 1, Storage.BLOCK4: 4, Storage.BLOCK16: 16}
"""Number of weights of one row that one index stands for."""

HYBRID_BLOCKS = 255
"""The kernel for int8 weights and float32 activations counts and numbers blocks in one byte."""


@dataclasses.dataclass(frozen=True)
class SparseTensor:
    """The non-zeros of a tensor, row by row; a row runs over the last axis.

    Args:
        shape: Shape of the dense tensor.
        block: Number of values in a row that one index stands for; 1 without blocks.
        segments: Where each row starts in `indices`, and where the last ends; shape (rows + 1,).
        indices: Column of each non-zero, or number of each block; increasing within a row.
        values: The values, `block` for each index, including zeros within a block.
    """

    shape: tuple[int, ...]
    block: int
    segments: np.ndarray
    indices: np.ndarray
    values: np.ndarray

    @property
    def nbytes(self) -> int:
        """Bytes of the values and both index vectors."""
        return self.values.nbytes + self.segments.nbytes + self.indices.nbytes


def encode(weights: np.ndarray, block: int = 1) -> SparseTensor:
    """Return the non-zeros of a tensor.

    Args:
        weights: Array of two or more axes, such as (units, inputs).
        block: Number of values in a row to keep or drop together; divides the last axis.

    Returns:
        All values except zeros, or blocks of zeros, with index vectors of the smallest dtype.

    Raises:
        ValueError: If `block` does not divide the last axis.

    Example:

    ```python
    sparse = encode(np.array([[0, 7, 0, 8], [0, 0, 0, 0]], "float32"))
    # segments 0 2 2, indices 1 3, values 7 8
    ```
    """
    blocks = _blocks(weights, block)
    stored = _stored(blocks)
    segments = np.concatenate([[0], np.cumsum(stored.sum(axis=1))])
    return SparseTensor(
        weights.shape,
        block,
        _smallest(segments),
        _smallest(np.nonzero(stored)[1]),
        blocks[stored].reshape(-1),
    )


def decode(sparse: SparseTensor) -> np.ndarray:
    """Return the dense tensor that was passed to `encode`."""
    rows = math.prod(sparse.shape[:-1])
    columns = sparse.shape[-1]
    # Blocks that the converter itself makes may extend beyond the end of a row.
    count = -(-columns // sparse.block)
    blocks = np.zeros((rows, count, sparse.block), sparse.values.dtype)
    segments = sparse.segments.astype(np.int64)
    row = np.repeat(np.arange(rows), segments[1:] - segments[:-1])
    blocks[row, sparse.indices] = sparse.values.reshape(-1, sparse.block)
    return blocks.reshape(rows, -1)[:, :columns].reshape(sparse.shape)


def encoded_bytes(weights: np.ndarray, storage: Storage) -> int:
    """Return how many bytes of values and index vectors a file holds for a weight.

    Args:
        weights: The weight.
        storage: How it is stored.

    Raises:
        ValueError: If a block of this storage does not divide the last axis.
    """
    if storage is Storage.DENSE:
        return weights.nbytes
    block = BLOCKS[storage]
    stored = _stored(_blocks(weights, block))
    count = int(np.count_nonzero(stored))
    columns = np.flatnonzero(stored.any(axis=0))
    segment_bytes = (len(stored) + 1) * _index_type(count).itemsize
    index_bytes = count * _index_type(int(columns.max(initial=0))).itemsize
    return count * block * weights.itemsize + segment_bytes + index_bytes


def block_density(weights: np.ndarray, block: int) -> float:
    """Return the share of blocks with a non-zero; with blocks of 1, the share of non-zeros.

    Args:
        weights: Array of two or more axes.
        block: Number of values in a row that belong together; divides the last axis.

    Raises:
        ValueError: If `block` does not divide the last axis.
    """
    return float(_stored(_blocks(weights, block)).mean())


def can_store(weights: np.ndarray, storage: Storage, hybrid: bool = False) -> str | None:
    """Return why a weight can't be stored in a given way, or `None` if it can.

    Args:
        weights: The weight as the file has it: (units, inputs) of a fully connected layer, or the
            four axes of a convolution's filter.
        storage: How to store it.
        hybrid: Whether int8 weights are used with float32 activations (dynamic-range quantisation).
    """
    if storage is Storage.DENSE:
        return None
    dtype = np.dtype(np.int8 if storage is Storage.BLOCK16 else np.float32)
    if weights.dtype != dtype:
        return f"{storage} expects {dtype} weights. Received: {weights.dtype}"
    if storage is Storage.DENSIFY:
        return None
    if weights.ndim != 2:
        return f"{storage} expects the weights of a fully connected layer. Received: a filter"
    block = BLOCKS[storage]
    inputs = weights.shape[1]
    if inputs % block:
        return f"{storage} expects inputs in multiples of {block}. Received: {inputs} inputs"
    if storage is Storage.BLOCK16 and hybrid:
        stored = _stored(_blocks(weights, block))
        fullest = int(stored.sum(axis=1).max())
        if inputs > block * (HYBRID_BLOCKS + 1) or fullest > HYBRID_BLOCKS:
            return (
                f"{storage} with float32 activations expects at most "
                f"{block * (HYBRID_BLOCKS + 1)} inputs and {HYBRID_BLOCKS} blocks in a row. "
                f"Received: {inputs} inputs and {fullest} blocks"
            )
    return None


def _blocks(weights: np.ndarray, block: int) -> np.ndarray:
    """Return a view of shape (rows, blocks in a row, block)."""
    if weights.shape[-1] % block:
        raise ValueError(
            f"Expected a block that divides the last axis. Received: block={block} for shape "
            f"{weights.shape}"
        )
    return weights.reshape(-1, weights.shape[-1] // block, block)


def _stored(blocks: np.ndarray) -> np.ndarray:
    """Return which blocks have a non-zero, of shape (rows, blocks in a row)."""
    nonzero = blocks != 0
    return nonzero[..., 0] if blocks.shape[-1] == 1 else nonzero.any(axis=-1)


def _index_type(largest: int) -> np.dtype:
    for dtype in (np.uint8, np.uint16):
        if largest <= np.iinfo(dtype).max:
            return np.dtype(dtype)
    return np.dtype(np.int32)


def _smallest(indices: np.ndarray) -> np.ndarray:
    return indices.astype(_index_type(int(indices.max(initial=0))))
