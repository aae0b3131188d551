"""Rules of the convolutions that first treat each input channel by itself."""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .features import Constants, Mask, Surroundings
from .kernels import FullKernel, Kernel
from .rule import Weights


class DepthwiseKernel(Kernel):
    """A layer that makes several output channels from each single input channel.

    Its kernel has the shape (..., inputs, multiplier); its output has the channels made from the
    first input, then those made from the second, and so on.
    """

    def _per_input(self, features: np.ndarray) -> np.ndarray:
        return features.reshape(-1, self.layer.depth_multiplier)

    def _contribution(self, inputs: Constants) -> NDArray[np.float64]:
        kernel = self._kernel()
        total = kernel.reshape(-1, *kernel.shape[-2:]).sum(axis=0, dtype="float64")
        values = np.where(self._absorbed(inputs), inputs.values, 0.0)
        result: NDArray[np.float64] = (values[:, None] * total).reshape(-1)
        return result

    def _connected(self, inputs: Constants) -> Mask:
        """Where an output channel reads an input that is not absorbed: (inputs, multiplier)."""
        kernel = self._kernel()
        weights = np.any(kernel.reshape(-1, *kernel.shape[-2:]) != 0, axis=0)
        return weights & ~self._absorbed(inputs)[:, None]

    def constants(self, inputs: Sequence[Constants]) -> Constants:
        """Return the channels whose input is absorbed or whose kernel is zero."""
        dead = ~self._connected(inputs[0]).reshape(-1)
        return self._active(dead, self._bias(len(dead)) + self._contribution(inputs[0]))

    def needs(self, inputs: Sequence[Constants], needed: Mask) -> list[Mask]:
        """Return the inputs of the needed channels, except absorbed ones."""
        return [(self._connected(inputs[0]) & self._per_input(needed)).any(axis=1)]

    def couple(self, inputs: Sequence[Mask], output: Mask) -> tuple[list[Mask], Mask]:
        """Keep either all channels that are made from an input, or none of them."""
        kept = inputs[0] | self._per_input(output).any(axis=1)
        return [kept], np.repeat(kept, self.layer.depth_multiplier)

    def rebuilt(self, around: Surroundings) -> tuple[dict[str, Any], Weights]:
        """Return the layer without removed features, with zeros where nothing is read any more."""
        (inputs,), (kept_inputs,) = around.constants, around.kept_inputs
        read = self._connected(inputs) & self._per_input(around.needed)
        kernel = np.where(read, self._kernel(), 0).astype(self._kernel().dtype)
        return self._new(around, [kernel[..., kept_inputs, :]], self._contribution(inputs))


class SeparableKernel(FullKernel):
    """A depthwise convolution, then a kernel that reads all its channels at each position.

    The channels in between that come from the same input stay or are removed together.
    """

    @functools.cached_property
    def _connected(self) -> Mask:
        """Where a path of non-zero weights leads; of shape (inputs, units)."""
        depthwise, pointwise = self._kernels()
        used = np.any(depthwise.reshape(-1, *depthwise.shape[-2:]) != 0, axis=0)
        return np.any(used[:, :, None] & (pointwise != 0), axis=1)

    def _contribution(self, inputs: Constants) -> NDArray[np.float64]:
        depthwise, pointwise = self._kernels()
        total = depthwise.reshape(-1, *depthwise.shape[-2:]).sum(axis=0, dtype="float64")
        values = np.where(self._absorbed(inputs), inputs.values, 0.0)[:, None] * total
        result: NDArray[np.float64] = np.einsum("im,imu->u", values, pointwise)
        return result

    def rebuilt(self, around: Surroundings) -> tuple[dict[str, Any], Weights]:
        """Return the layer without removed features, with zeros where nothing is read any more."""
        (inputs,), (kept_inputs,) = around.constants, around.kept_inputs
        depthwise, pointwise = self._kernels()
        depthwise, pointwise = depthwise[..., kept_inputs, :], pointwise[kept_inputs]
        pointwise[self._absorbed(inputs)[kept_inputs]] = 0
        pointwise[..., ~around.needed] = 0
        pointwise = pointwise[..., around.kept].reshape(-1, int(around.kept.sum()))
        ones = (1,) * (depthwise.ndim - 2)
        pointwise = pointwise.reshape(*ones, *pointwise.shape)
        return self._new(around, [depthwise, pointwise], self._contribution(inputs))

    def _kernels(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the kernels, of shapes (..., inputs, multiplier), (inputs, multiplier, units)."""
        depthwise = np.asarray(self.layer.depthwise_kernel)
        return depthwise, np.asarray(self.layer.pointwise_kernel).reshape(*depthwise.shape[-2:], -1)
