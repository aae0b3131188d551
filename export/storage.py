"""Which storage suits a weight, by what the file is for and by measured thresholds."""

import dataclasses
import enum
import math
from collections.abc import Iterable

import numpy as np

from .csr import BLOCKS, Storage, block_density, can_store, encoded_bytes
from .weights import Weight

# Unpacking is worth the memory that it takes if at most this share of a weight's bytes is stored.
_WORTHWHILE = 0.9


class Goal(enum.StrEnum):
    """What a file is made for."""

    SIZE = "size"
    """Fewest bytes, on the disk and in memory, even where that is slower."""
    LATENCY = "latency"
    """Fastest. Weights used in dense form are unpacked when loaded, which costs memory."""
    BALANCED = "balanced"
    """Like `LATENCY`, but of several sparse storages no slower than dense, the smallest."""


@dataclasses.dataclass(frozen=True)
class Thresholds:
    """The sparsity from which a sparse kernel is at least as fast as the dense one.

    `benchmarks/storage.py` measures them; the defaults are from an x86-64 CPU with AVX2, one
    thread, against XNNPACK.

    Args:
        csr: Share of zeros for CSR, float32.
        large_csr: The same for weights that exceed the CPU's cache.
        block4: Share of 1x4 blocks that are zero, float32.
        block16: Share of 1x16 blocks that are zero, int8.
        batched_csr: As `csr`, for layers that use their weights several times in a call, for a
            batch or for tokens: a dense kernel then reads them once.
        batched_block4: The same for `block4`.
        batched_block16: The same for `block16`.
        large_bytes: Number of bytes from which dense weights exceed the cache.
        joined_bytes: Number of bytes up to which a dense float32 layer beside a sparse one is
            faster without XNNPACK, since calling the delegate costs more than the layer.
    """

    csr: float = 0.94
    large_csr: float = 0.9
    block4: float = 0.75
    block16: float = 0.7
    batched_csr: float = 0.98
    batched_block4: float = 0.94
    batched_block16: float = 0.98
    large_bytes: int = 8 * 2**20
    joined_bytes: int = 2**18

    def are_met(self, weight: Weight, storage: Storage) -> bool:
        """Return whether a storage that is read as it is is at least as fast as dense."""
        return 1 - block_density(weight.array, BLOCKS[storage]) >= self._bound(weight, storage)

    def _bound(self, weight: Weight, storage: Storage) -> float:
        is_batched = weight.rows > 1
        if storage is Storage.BLOCK4:
            return self.batched_block4 if is_batched else self.block4
        if storage is Storage.BLOCK16:
            return self.batched_block16 if is_batched else self.block16
        if is_batched:
            return self.batched_csr
        return self.large_csr if weight.array.nbytes >= self.large_bytes else self.csr


def choose(
    weights: Iterable[Weight], goal: Goal, thresholds: Thresholds | None = None
) -> dict[int, Storage]:
    """Choose a storage for every weight of a model.

    Args:
        weights: The constant weights of its operators.
        goal: What the file is for.
        thresholds: The sparsities from which sparse kernels are fast.

    Returns:
        A storage by the weight's tensor; weights that stay dense are left out.
    """
    thresholds = Thresholds() if thresholds is None else thresholds
    choices = {weight.tensor: _best(weight, goal, thresholds) for weight in weights}
    return {tensor: kind for tensor, kind in choices.items() if kind is not Storage.DENSE}


def _best(weight: Weight, goal: Goal, thresholds: Thresholds) -> Storage:
    possible = [kind for kind in Storage if can_store(weight.array, kind, weight.hybrid) is None]
    size = {kind: encoded_bytes(weight.array, kind) for kind in possible}
    read_as_stored = [kind for kind in possible if kind not in (Storage.DENSE, Storage.DENSIFY)]
    if goal is Goal.SIZE and read_as_stored:
        # A weight that is unpacked when loaded would be small only on the disk.
        return min((Storage.DENSE, *read_as_stored), key=lambda kind: size[kind])
    fast = [kind for kind in read_as_stored if thresholds.are_met(weight, kind)]
    if fast and goal is Goal.LATENCY:
        return min(fast, key=lambda kind: _products(weight.array, kind))
    if fast:
        return min(fast, key=lambda kind: size[kind])
    if size.get(Storage.DENSIFY, math.inf) <= _WORTHWHILE * size[Storage.DENSE]:
        return Storage.DENSIFY
    return Storage.DENSE


def _products(array: np.ndarray, storage: Storage) -> float:
    """Return how many steps the kernel of a sparse storage takes: one per value or block."""
    block = BLOCKS[storage]
    return block_density(array, block) * array.size / block
