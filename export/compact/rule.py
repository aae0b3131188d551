"""What a layer of a known type does with features; each subclass is for some types."""

import abc
from collections.abc import Sequence
from typing import Any

import numpy as np

from .features import Constants, Mask, Surroundings, union

Weights = list[np.ndarray]


class Rule(abc.ABC):
    """How the features of a layer's inputs and of its only output depend on each other.

    The layer acts as in inference. Masks and constants have the shape (features,); those of the
    inputs are in the order of the call.

    Args:
        layer: The layer, or operation on tensors.

    Attributes:
        mixes: Whether every output feature depends on all others, as in a softmax, so that all of
            them stay.
    """

    mixes = False

    def __init__(self, layer: Any) -> None:
        self.layer = layer

    @abc.abstractmethod
    def constants(self, inputs: Sequence[Constants]) -> Constants:
        """Return which output features are constant, given those of the inputs."""

    @abc.abstractmethod
    def needs(self, inputs: Sequence[Constants], needed: Mask) -> list[Mask]:
        """Return which features of each input the needed output features are made from.

        Args:
            inputs: Constants of the inputs. One that the layer's own weights can absorb is not
                needed.
            needed: Output features.
        """

    @abc.abstractmethod
    def couple(self, inputs: Sequence[Mask], output: Mask) -> tuple[list[Mask], Mask]:
        """Return the smallest sets of features, containing those given, that the layer can have.

        Args:
            inputs: Features of each input that must stay.
            output: Output features that must stay.
        """

    def made(self, inputs: Sequence[Mask], output: Mask) -> Mask:
        """Return the output features that the new layer makes: those kept, or more.

        If it makes more, a gather after the layer takes those kept.

        Args:
            inputs: Kept features of each input.
            output: Kept output features.
        """
        return output

    def rebuilt(self, around: Surroundings) -> tuple[dict[str, Any], Weights]:
        """Return the configuration and the weights of the new layer.

        Args:
            around: What was decided about the tensors around the layer.
        """
        return self.layer.get_config(), []


class Featurewise(Rule):
    """A rule for layers that make every output feature from the same feature of each input."""

    def needs(self, inputs: Sequence[Constants], needed: Mask) -> list[Mask]:
        """Return the needed features for every input."""
        return [needed for _ in inputs]

    def couple(self, inputs: Sequence[Mask], output: Mask) -> tuple[list[Mask], Mask]:
        """Return the union of all masks, for every input and for the output."""
        kept = union([*inputs, output])
        return [kept for _ in inputs], kept
