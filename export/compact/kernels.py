"""Rules of dense and convolutional layers: the kernel says which feature reaches which unit."""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .elementwise import Function
from .features import Constants, Mask, Surroundings, whole_groups
from .rule import Rule, Weights


class Kernel(Rule):
    """A layer with kernels, a bias and an activation.

    Args:
        layer: The layer.
        function: Its activation for constants, or `None` if it mixes units.
        pads: Whether positions outside of the input are read as zeros. If so, the bias can absorb a
            constant input only if it is 0.
        group: Number of input features that stay or go together.
        units: Name of the configuration entry that holds the number of output features.
    """

    def __init__(
        self,
        layer: Any,
        function: Function | None,
        *,
        pads: bool = False,
        group: int = 1,
        units: str | None = None,
    ) -> None:
        super().__init__(layer)
        self.function = function
        self.mixes = function is None
        self.pads = pads
        self.group = group
        self.units = units

    def _kernel(self) -> np.ndarray:
        return np.asarray(self.layer.kernel)

    def _bias(self, features: int) -> NDArray[np.float64]:
        bias = self.layer.bias
        return np.zeros(features) if bias is None else np.asarray(bias).astype("float64")

    def _absorbed(self, inputs: Constants) -> Mask:
        """Return the input features whose contribution to the output can be added to the bias."""
        return inputs.zero if self.pads else inputs.known

    def _active(self, known: Mask, preactivation: NDArray[np.float64]) -> Constants:
        if self.function is None:
            return Constants.none(len(known))
        return Constants.of(known, self.function(np.where(known, preactivation, 0.0)))

    def _new(
        self, around: Surroundings, kernels: Weights, constant: NDArray[np.float64]
    ) -> tuple[dict[str, Any], Weights]:
        """Return the configuration and the weights of the layer with new kernels.

        Args:
            around: What is decided around the layer.
            kernels: The new kernels; the layer's first weights.
            constant: Float64 of shape (features before,), to add to the bias.
        """
        config = self.layer.get_config()
        bias = np.where(around.needed, self._bias(len(constant)) + constant, 0.0)[around.kept]
        if self.units is not None:
            config[self.units] = int(around.kept.sum())
        config["use_bias"] = self.layer.use_bias or bool(bias.any())
        # The function itself: one without a registered name can't be restored from its saved form.
        config["activation"] = self.layer.activation
        shapes = [tuple(old.shape) for old in self.layer.weights[: len(kernels)]]
        if [new.shape for new in kernels] != shapes or config["use_bias"] != self.layer.use_bias:
            # The values are copied anyway, and an initialiser might not accept the new shape.
            names = [name for name in config if name.endswith("_initializer")]
            config.update(dict.fromkeys(names, "zeros"))
        biases = [bias.astype(kernels[0].dtype)] if config["use_bias"] else []
        return config, [*kernels, *biases]


class FullKernel(Kernel):
    """A layer in which every unit reads every input feature, by a kernel (..., inputs, units)."""

    @functools.cached_property
    def _connected(self) -> Mask:
        """Where a weight is not 0 at some position; of shape (inputs, units)."""
        kernel = self._kernel()
        return np.any(kernel.reshape(-1, *kernel.shape[-2:]) != 0, axis=0)

    def _contribution(self, inputs: Constants) -> NDArray[np.float64]:
        """Return what the absorbed inputs add to each unit, float64 of shape (units,)."""
        rows = np.flatnonzero(self._absorbed(inputs) & ~inputs.zero)
        if not len(rows):
            return np.zeros(self._connected.shape[1])
        total = self._kernel()[..., rows, :].reshape(-1, len(rows), self._connected.shape[1])
        return inputs.values[rows] @ total.sum(axis=0, dtype="float64")

    def constants(self, inputs: Sequence[Constants]) -> Constants:
        """Return the units that are reached only by inputs that the bias can absorb, if by any."""
        absorbed = self._absorbed(inputs[0])
        read = self._connected[~absorbed] if absorbed.any() else self._connected
        constant = self._contribution(inputs[0])
        return self._active(~np.any(read, axis=0), self._bias(len(constant)) + constant)

    def needs(self, inputs: Sequence[Constants], needed: Mask) -> list[Mask]:
        """Return the features with a weight to a needed unit, except absorbed ones."""
        read = self._connected if needed.all() else self._connected[:, needed]
        return [read.any(axis=1) & ~self._absorbed(inputs[0])]

    def couple(self, inputs: Sequence[Mask], output: Mask) -> tuple[list[Mask], Mask]:
        """Grow the inputs to whole groups."""
        return [whole_groups(inputs[0], self.group)], output

    def rebuilt(self, around: Surroundings) -> tuple[dict[str, Any], Weights]:
        """Return the layer without removed features, with zeros where nothing is read any more."""
        (inputs,), (kept_inputs,) = around.constants, around.kept_inputs
        kernel = self._kernel()
        kernel = kernel[..., np.flatnonzero(kept_inputs)[:, None], np.flatnonzero(around.kept)]
        kernel[..., self._absorbed(inputs)[kept_inputs], :] = 0
        kernel[..., ~around.needed[around.kept]] = 0
        return self._new(around, [kernel], self._contribution(inputs))
