"""The size of a file: bytes, gzipped bytes, values, and the fewest bytes that its weights need."""

import dataclasses
import gzip
import math
from collections.abc import Iterable

import numpy as np

from . import flatbuffer
from .csr import Storage
from .weights import Weight, weights


@dataclasses.dataclass(frozen=True)
class Figures:
    """Figures that can be read off a file.

    Args:
        bytes: Its size.
        gzip_bytes: Its size when compressed, as app stores compress downloads.
        nonzeros: Number of weights of dense and convolutional layers that are not zero.
        weights: Number of all weights of these layers, zeros included.
        storages: How each weight is stored, by the name of its tensor.
    """

    bytes: int
    gzip_bytes: int
    nonzeros: int
    weights: int
    storages: dict[str, Storage]


def figures(content: bytes) -> Figures:
    """Read the figures off a file.

    Args:
        content: The content of a valid TFLite file.
    """
    found = weights(flatbuffer.read(content))
    return Figures(
        bytes=len(content),
        gzip_bytes=len(gzip.compress(content, mtime=0)),
        nonzeros=sum(int(np.count_nonzero(weight.array)) for weight in found),
        weights=sum(weight.array.size for weight in found),
        storages=_by_name(found),
    )


def _by_name(found: Iterable[Weight]) -> dict[str, Storage]:
    return {f"{weight.name}#{weight.tensor}": weight.storage for weight in found}


def information_bound(kernels: Iterable[np.ndarray], others: int, value_bytes: int) -> int:
    """Return the fewest bytes that weights need, if every non-zero is a number of its own.

    They are the bytes of the values and, for each kernel of n weights, the entropy of which weights
    are not zero: `n * H(nonzeros / n)` bits.

    Args:
        kernels: The kernels with zeros in them.
        others: Number of further weights, such as biases, all of which count as values.
        value_bytes: Bytes of a value: 4 for float32, 1 for int8.

    Returns:
        Bytes, rounded up.

    Reference:
        - [Shannon, 1948](https://doi.org/10.1002/j.1538-7305.1948.tb01338.x)
    """
    bits = 8.0 * value_bytes * others
    for kernel in kernels:
        share = np.count_nonzero(kernel) / kernel.size
        entropy = sum(-p * math.log2(p) for p in (share, 1 - share) if p > 0)
        bits += 8 * value_bytes * share * kernel.size + entropy * kernel.size
    return math.ceil(bits / 8)
