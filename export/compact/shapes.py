"""Rules of the layers that move features elsewhere: concatenation, flatten and reshape."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from .features import Constants, Mask, Surroundings
from .rule import Featurewise, Rule, Weights


class Concatenated(Rule):
    """`Concatenate` over the features.

    Args:
        layer: The layer.
        widths: Number of features of each input.
    """

    def __init__(self, layer: Any, widths: Sequence[int]) -> None:
        super().__init__(layer)
        self.borders = np.cumsum(widths)[:-1]

    def constants(self, inputs: Sequence[Constants]) -> Constants:
        """Return the constants of all inputs, one after the other."""
        return Constants.of(
            np.concatenate([each.known for each in inputs]),
            np.concatenate([each.values for each in inputs]),
        )

    def needs(self, inputs: Sequence[Constants], needed: Mask) -> list[Mask]:
        """Return each input's share."""
        return np.split(needed, self.borders)

    def couple(self, inputs: Sequence[Mask], output: Mask) -> tuple[list[Mask], Mask]:
        """Keep the same features in the inputs and in the output."""
        kept = np.concatenate(list(inputs)) | output
        return np.split(kept, self.borders), kept


class Flattened(Rule):
    """A layer that makes one vector of the channels at several positions.

    Entry `position * channels + channel` of the output is that channel at that position. A channel
    can be removed only at all positions at once; a gather after the layer leaves out other entries.

    Args:
        layer: A `Flatten` or `Reshape` layer.
        channels: Number of input features.
        entries: Number of output features.
    """

    def __init__(self, layer: Any, channels: int, entries: int) -> None:
        super().__init__(layer)
        self.channels = channels
        self.positions = entries // channels

    def constants(self, inputs: Sequence[Constants]) -> Constants:
        """Return the constant channels, at every position."""
        (given,) = inputs
        tiled = np.tile(given.values, self.positions)
        return Constants.of(np.tile(given.known, self.positions), tiled)

    def needs(self, inputs: Sequence[Constants], needed: Mask) -> list[Mask]:
        """Return the channels that are needed at any position."""
        return [self._anywhere(needed)]

    def couple(self, inputs: Sequence[Mask], output: Mask) -> tuple[list[Mask], Mask]:
        """Keep the channels of the kept entries."""
        return [inputs[0] | self._anywhere(output)], output

    def made(self, inputs: Sequence[Mask], output: Mask) -> Mask:
        """Return the kept channels, at every position."""
        return np.tile(inputs[0], self.positions)

    def rebuilt(self, around: Surroundings) -> tuple[dict[str, Any], Weights]:
        """Return the layer for the number of entries that it will make."""
        config = self.layer.get_config()
        if "target_shape" in config:
            config["target_shape"] = (self.positions * int(around.kept_inputs[0].sum()),)
        return config, []

    def _anywhere(self, entries: Mask) -> Mask:
        return np.asarray(entries.reshape(self.positions, self.channels).any(axis=0))


class Unflattened(Rule):
    """A `Reshape` of a vector into channels at several positions: the reverse of a flatten.

    Args:
        layer: The layer.
        channels: Number of output features.
        entries: Number of input features.
    """

    def __init__(self, layer: Any, channels: int, entries: int) -> None:
        super().__init__(layer)
        self.channels = channels
        self.positions = entries // channels

    def constants(self, inputs: Sequence[Constants]) -> Constants:
        """Return the channels that have one constant value at all positions."""
        values = inputs[0].values.reshape(self.positions, self.channels)
        known = inputs[0].known.reshape(self.positions, self.channels)
        return Constants.of(known.all(axis=0) & np.all(values == values[0], axis=0), values[0])

    def needs(self, inputs: Sequence[Constants], needed: Mask) -> list[Mask]:
        """Return the needed channels, at every position."""
        return [np.tile(needed, self.positions)]

    def couple(self, inputs: Sequence[Mask], output: Mask) -> tuple[list[Mask], Mask]:
        """Keep a channel at all positions, or at none."""
        kept = output | np.asarray(inputs[0].reshape(self.positions, -1).any(axis=0))
        return [np.tile(kept, self.positions)], kept

    def rebuilt(self, around: Surroundings) -> tuple[dict[str, Any], Weights]:
        """Return the layer for the kept channels."""
        return _with_last(self.layer.get_config(), int(around.kept.sum())), []


class Regrouped(Featurewise):
    """A `Reshape` that keeps the last axis: the same channels, at positions counted differently."""

    def constants(self, inputs: Sequence[Constants]) -> Constants:
        """Return the constants of the input."""
        return inputs[0]

    def rebuilt(self, around: Surroundings) -> tuple[dict[str, Any], Weights]:
        """Return the layer for the kept channels."""
        return _with_last(self.layer.get_config(), int(around.kept.sum())), []


def _with_last(config: dict[str, Any], size: int) -> dict[str, Any]:
    """Return the configuration of a `Reshape` with another last axis."""
    return {**config, "target_shape": (*config["target_shape"][:-1], size)}
