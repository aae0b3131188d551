"""How the structure settles: exactly at the target sparsity."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import ops

from keras_switcher.layers import SwitchedDense

_LEAST_DENSITY = 1e-4
_LEAST_LOGIT = 1e-3


def is_at_target(layers: Sequence[SwitchedDense], target_sparsity: float) -> bool:
    """Return whether the layers' switches are as near to a target as whole groups allow.

    Args:
        layers: The built switched layers of a model.
        target_sparsity: Share of all connections to turn off, in [0, 1).
    """
    switches = [ops.convert_to_numpy(layer.switches) for layer in layers]
    sizes = [layer.group_sizes() for layer in layers]
    connections = sum(layer.connections for layer in layers)
    sparsity = _sparsity([s > 0 for s in switches], sizes, connections)
    # What rounding to whole groups may leave, once for all layers or in each of them.
    largest = [float(np.max(s)) for s in sizes]
    allowed = max(*largest, sum(largest) / 2) / connections
    if abs(sparsity - target_sparsity) <= allowed:
        return True
    # With large groups, even the nearest structure may miss the target by more.
    nearest = _sparsity(choose_on(switches, sizes, target_sparsity), sizes, connections)
    return abs(sparsity - nearest) <= allowed


def _sparsity(chosen: Sequence[np.ndarray], sizes: Sequence[np.ndarray], connections: int) -> float:
    return 1 - sum(float(np.sum(c * s)) for c, s in zip(chosen, sizes, strict=True)) / connections


def settle(layers: Sequence[SwitchedDense], offset: Any, target_sparsity: float) -> None:
    """Set the switches of layers such that a target is met, by `settled_logits`.

    Args:
        layers: The built switched layers of a model.
        offset: What is added to the logits of all.
        target_sparsity: Share of all connections to turn off, in [0, 1).

    Raises:
        FloatingPointError: If a switcher returns logits that are not finite.
    """
    logits = [ops.convert_to_numpy(layer.compute_logits() + offset) for layer in layers]
    for layer, z in zip(layers, logits, strict=True):
        if not np.isfinite(z).all():
            check_kernel(layer)
            raise FloatingPointError(
                f"Expected finite logits of layer '{layer.name}'. Received: "
                f"{type(layer.switcher).__name__} returning {np.sum(~np.isfinite(z))} of "
                f"{z.size} that are not, which do not rank its connections."
            )
    sizes = [layer.group_sizes() for layer in layers]
    settled = settled_logits(logits, sizes, target_sparsity)
    for layer, z in zip(layers, settled, strict=True):
        layer.switches.assign(layer.gate(ops.convert_to_tensor(z)))


def check_kernel(layer: SwitchedDense) -> None:
    """Check that the kernel of a layer is finite, where what its switcher makes of it is not.

    Args:
        layer: A built layer.

    Raises:
        FloatingPointError: If it is not.
    """
    if not np.isfinite(ops.convert_to_numpy(layer.kernel)).all():
        raise FloatingPointError(
            f"Expected a finite kernel of layer '{layer.name}', which its switcher reads. Received "
            "weights that are not: look for NaN or very large numbers in the data, or lower the "
            "learning rate of the task network."
        )


def settled_logits(
    logits: Sequence[np.ndarray], sizes: Sequence[np.ndarray], target_sparsity: float
) -> list[np.ndarray]:
    """Return logits of which those that `choose_on` chooses, and no others, are above 0.

    Those of a layer are moved together, just far enough.

    Args:
        logits: For each layer, an array of shape (groups, units).
        sizes: For each layer, the number of connections under each switch, of shape (groups, 1).
        target_sparsity: Share of all connections to turn off, in [0, 1).

    Returns:
        For each layer, a float32 array of shape (groups, units): 0 where a switch is off, and at
        least 0.001 where it is on.
    """
    settled = []
    for z, on in zip(logits, choose_on(logits, sizes, target_sparsity), strict=True):
        lowest = z[on].min()
        threshold = lowest if lowest <= 0 else max(0.0, z[~on].max(initial=0.0))
        settled.append(np.where(on, np.maximum(z - threshold, _LEAST_LOGIT), 0.0).astype("float32"))
    return settled


def choose_on(
    logits: Sequence[np.ndarray], sizes: Sequence[np.ndarray], target_sparsity: float
) -> list[np.ndarray]:
    """Choose the switches that stay on, so that the target is met to within one group.

    The switcher has decided how density spreads over the layers: the density of a layer is its
    share of positive logits. One number, added to the log-odds of every layer's density, moves the
    total to the target, so that no layer empties before the others. Within a layer, the largest
    logits stay on. The rest that rounding to whole groups leaves is given to, or taken from, the
    first layers that bring the total closer to the target.

    Args:
        logits: For each layer, an array of shape (groups, units).
        sizes: For each layer, the number of connections under each switch, of shape (groups, 1).
        target_sparsity: Share of all connections to turn off, in [0, 1).

    Returns:
        For each layer, a boolean array of shape (groups, units); at least one switch of each layer
        is on.
    """
    totals = np.array([float(z.shape[1] * s.sum()) for z, s in zip(logits, sizes, strict=True)])
    budget = (1.0 - target_sparsity) * totals.sum()
    densities = np.array([np.sum((z > 0) * s) for z, s in zip(logits, sizes, strict=True)]) / totals
    densities = np.clip(densities, _LEAST_DENSITY, 1 - _LEAST_DENSITY)
    odds = np.log(densities / (1 - densities))

    def shifted(shift: float) -> np.ndarray:
        return 1 / (1 + np.exp(-(odds + shift)))

    low, high = -40.0, 40.0
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if shifted(middle) @ totals < budget else (low, middle)
    wanted = shifted(high) * totals

    # Per layer: the switches by falling logit, and how many connections the first k of them hold.
    # In 32 bits, as there may be one entry of each per connection.
    order = [np.argsort(-z, axis=None, kind="stable").astype("uint32") for z in logits]
    held = []
    for z, s, o in zip(logits, sizes, order, strict=True):
        held.append(np.zeros(z.size + 1, "uint32"))
        np.cumsum(s.ravel().astype("uint32")[o // z.shape[1]], out=held[-1][1:])
    counts = [max(1, _nearest(h, w)) for h, w in zip(held, wanted, strict=True)]
    # This only corrects the rounding: a layer moves by at most a hundredth of its switches, or one,
    # and moves again only if the others could not make up for a layer with a few large groups.
    moved = True
    while moved:
        moved = False
        for index, total_held in enumerate(held):
            count, reach = counts[index], max(1, len(order[index]) // 100)
            missing = budget - sum(int(h[k]) for h, k in zip(held, counts, strict=True))
            needed = int(total_held[count]) + missing
            nearest = _nearest(total_held, needed)
            nearest = max(1, min(max(nearest, count - reach), count + reach))
            if abs(int(total_held[nearest]) - needed) < abs(missing) - 1e-6:
                counts[index], moved = nearest, True
    chosen = []
    for z, o, k in zip(logits, order, counts, strict=True):
        on = np.zeros(z.size, bool)
        on[o[:k]] = True
        chosen.append(on.reshape(z.shape))
    return chosen


def _nearest(ascending: np.ndarray, value: float) -> int:
    """Return the index of the entry nearest to a value, the lower one of two equally near."""
    # Of the array's type, or NumPy would convert the whole array.
    bound = ascending.dtype.type(max(0, math.ceil(value)))
    above = min(int(np.searchsorted(ascending, bound)), len(ascending) - 1)
    below = max(above - 1, 0)
    is_lower_nearer = value - int(ascending[below]) <= int(ascending[above]) - value
    return below if is_lower_nearer else above
