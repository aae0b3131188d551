"""Granularity: what one switch controls.

A switch controls a group of `size` consecutive inputs of one unit: 1 (`connection`), 4 (`block4`),
16 (`block16`) or all of them (`unit`). For a kernel of shape (inputs, units) there are
`ceil(inputs / size)` x units switches; if the size does not divide the inputs, the last group of
each unit is smaller.
"""

import dataclasses
from typing import Any

import numpy as np
from keras import ops

from keras_switcher.checks import is_integer
from keras_switcher.registry import Registry


@dataclasses.dataclass(frozen=True)
class Granularity:
    """How connections are grouped under switches.

    Args:
        name: The registered name.
        size: Number of consecutive inputs of one unit under one switch; `None` for all of them.
    """

    name: str
    size: int | None

    def __post_init__(self) -> None:
        if self.size is not None and not (is_integer(self.size) and self.size >= 1):
            raise ValueError(
                "Expected a group of 1 or more inputs, or None for a whole unit. "
                f"Received: size={self.size!r}"
            )
        if self.size is not None:
            # Switches are indexed by it, whatever the integer's type. The class is frozen.
            object.__setattr__(self, "size", int(self.size))

    def shape(self, kernel_shape: tuple[int, int]) -> tuple[int, int]:
        """Return the shape of the switches of a kernel.

        Args:
            kernel_shape: The kernel's shape, (inputs, units).

        Returns:
            (groups, units).
        """
        inputs, units = kernel_shape
        return (1 if self.size is None else -(-inputs // self.size), units)

    def sizes(self, kernel_shape: tuple[int, int]) -> np.ndarray:
        """Return how many connections each switch controls.

        Args:
            kernel_shape: The kernel's shape, (inputs, units).

        Returns:
            float32 of shape (groups, 1); the last group may be a smaller one.
        """
        inputs, _ = kernel_shape
        groups, _ = self.shape(kernel_shape)
        size = inputs if self.size is None else self.size
        sizes = np.full((groups, 1), size, "float32")
        sizes[-1] = inputs - size * (groups - 1)
        return sizes

    def expand(self, switches: Any, kernel_shape: tuple[int, int]) -> Any:
        """Spread switches over the connections that they control.

        Args:
            switches: Tensor of shape (groups, units).
            kernel_shape: The kernel's shape, (inputs, units).

        Returns:
            Tensor of shape (inputs, units); for `unit`, of (1, units), which broadcasts against
            the kernel.
        """
        if self.size is None or self.size == 1:
            return switches
        return ops.repeat(switches, self.size, axis=0)[: kernel_shape[0]]

    def pool(self, values: Any, kernel_shape: tuple[int, int]) -> Any:
        """Average the values of connections over each switch's group.

        Args:
            values: Tensor of shape (inputs, units).
            kernel_shape: The kernel's shape, (inputs, units).

        Returns:
            Tensor of shape (groups, units).
        """
        if self.size == 1:
            return values
        if self.size is None:
            return ops.mean(values, axis=0, keepdims=True)
        inputs, units = kernel_shape
        groups, _ = self.shape(kernel_shape)
        padded = ops.pad(values, ((0, groups * self.size - inputs), (0, 0)))
        sums = ops.sum(ops.reshape(padded, (groups, self.size, units)), axis=1)
        return sums / ops.cast(self.sizes(kernel_shape), values.dtype)


registry: Registry[Granularity] = Registry(
    "granularity",
    "keras_switcher.granularity.register(Granularity('name', size))",
)


def register(granularity: Granularity) -> Granularity:
    """Register a granularity under its name.

    Args:
        granularity: The granularity.

    Returns:
        The same.

    Raises:
        ValueError: If the name is taken by another one, or can't stand in a flag.

    Example:

    ```python
    from keras_switcher import SwitchedDense, granularity

    granularity.register(granularity.Granularity("block8", 8))
    layer = SwitchedDense(10, granularity="block8")
    ```
    """
    return registry.register(granularity.name)(granularity)


for _granularity in (
    Granularity("connection", 1),
    Granularity("block4", 4),
    Granularity("block16", 16),
    Granularity("unit", None),
):
    register(_granularity)


def get(identifier: str | Granularity) -> Granularity:
    """Return a granularity by its registered name; return a registered `Granularity` unchanged.

    Args:
        identifier: A registered name or `Granularity`.

    Returns:
        The granularity.

    Raises:
        ValueError: If it is not registered, and so could not be loaded again.
    """
    if not isinstance(identifier, Granularity):
        return registry.get(identifier)
    if identifier.name in registry.names() and registry.get(identifier.name) == identifier:
        return identifier
    raise ValueError(
        "A granularity must be registered under its name, so that a saved layer can find it again: "
        f"add it with {registry.how_to_add}. Received: {identifier!r}"
    )
