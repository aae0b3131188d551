"""What is known about a tensor's features, which are the entries of its last axis."""

import dataclasses
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]


def width(tensor: Any) -> int:
    """Return the number of features of a symbolic tensor, or 0 if it has no fixed number."""
    shape = tensor.shape
    return int(shape[-1]) if len(shape) > 1 and shape[-1] is not None else 0


def union(masks: Iterable[Mask]) -> Mask:
    """Return where any of the masks, each of shape (features,), is true."""
    return np.logical_or.reduce(list(masks))


def whole_groups(mask: Mask, group: int) -> Mask:
    """Return the mask grown to whole aligned groups of features.

    Args:
        mask: Of shape (features,).
        group: Number of consecutive features that stay or go together; the last group may have
            fewer.
    """
    padded = np.pad(mask, (0, -len(mask) % group)).reshape(-1, group)
    return np.repeat(padded.any(axis=1), group)[: len(mask)]


@dataclasses.dataclass(frozen=True)
class Constants:
    """Which features have one value, whatever the model's inputs and the position, and which value.

    Args:
        known: Of shape (features,).
        values: Float64 of shape (features,); 0 where not known.
    """

    known: Mask
    values: NDArray[np.float64]

    @classmethod
    def of(cls, known: Mask, values: NDArray[np.float64]) -> "Constants":
        """Take the values that are known; one that is not finite counts as not known."""
        known = known & np.isfinite(values)
        return cls(known, np.where(known, values, 0.0))

    @classmethod
    def none(cls, features: int) -> "Constants":
        """Return that no feature is known to be constant."""
        return cls(np.zeros(features, bool), np.zeros(features))

    @property
    def zero(self) -> Mask:
        """Where the value is known to be 0."""
        return self.known & (self.values == 0)

    def common(self, other: "Constants") -> "Constants":
        """Return the constants that both have."""
        return Constants.of(self.known & other.known & (self.values == other.values), self.values)


@dataclasses.dataclass(frozen=True)
class Surroundings:
    """What was decided about the tensors around one layer.

    Args:
        constants: The constants of each input.
        kept_inputs: The features of each input that the new model has.
        needed: The output features that reach an output of the model and must have the right
            values. Other features that are kept fill up a group, and may have any finite value.
        kept: The output features that the new model has; all needed ones are among them.
    """

    constants: list[Constants]
    kept_inputs: list[Mask]
    needed: Mask
    kept: Mask
