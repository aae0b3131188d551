"""The target sparsity: a constraint on the objective, met exactly when the model settles."""

import math
import numbers
from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import ops

_LEAST_DENSITY = 1e-4


def check_target(target_sparsity: float | None) -> float | None:
    """Return the target sparsity if it is valid.

    Args:
        target_sparsity: Share of the switched connections to turn off, in [0, 1), or `None`.

    Raises:
        ValueError: If it lies outside [0, 1) or is not a number.
    """
    if target_sparsity is None:
        return None
    if not _is_real(target_sparsity) or not 0 <= target_sparsity < 1:
        raise ValueError(
            "Expected `target_sparsity` to be None or a share of connections in [0, 1), such as "
            f"0.95 for 95 %. Received: target_sparsity={target_sparsity!r}"
        )
    return float(target_sparsity)


def _is_real(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def next_offset(offset: Any, density: Any, target: Any) -> Any:
    """Return the next offset of all logits, which brings the density closer to its target.

    The logits have unit variance within a layer, so the log-odds of the density rise about as fast
    as the offset. A step of half the missing log-odds, at most 0.25, does not overshoot, nor does
    it lag behind a course of some dozens of turns.

    Args:
        offset: Scalar tensor, added to every logit.
        density: Scalar tensor, the density at this offset.
        target: Scalar tensor, the density to reach.

    Returns:
        Scalar tensor.
    """

    def log_odds(share: Any) -> Any:
        share = ops.clip(share, 1e-4, 1 - 1e-4)
        return ops.log(share) - ops.log(1 - share)

    return offset + ops.clip(0.5 * (log_odds(target) - log_odds(density)), -0.25, 0.25)


def next_multiplier(multiplier: Any, gradient: Any, slope: Any, rate: float) -> Any:
    """Return the Lagrange multiplier of the target, from the optimality condition.

    The offset keeps the density at its target whatever the switchers do, so they must descend along
    the constraint. With `objective = loss + multiplier * density`, they do so if the objective does
    not change with the offset: `d objective / d offset = 0`. The multiplier moves slowly to where
    this holds, as the gradient of a few batches is noisy.

    Args:
        multiplier: Scalar tensor.
        gradient: Scalar tensor, the objective's derivative with respect to the offset.
        slope: Scalar tensor, the density's derivative with respect to the offset, > 0.
        rate: Float in (0, 1], the weight of this turn in the average.

    Returns:
        Scalar tensor; the old multiplier where the gradient is not finite.

    Reference:
        Nocedal & Wright, Numerical Optimization, 2006, section 12.3: the conditions of Karush,
        Kuhn and Tucker.
    """
    moved = multiplier - rate * gradient / (slope + 1e-8)
    return ops.where(ops.isfinite(moved), moved, multiplier)


def choose_on(
    logits: Sequence[np.ndarray], sizes: Sequence[np.ndarray], target_sparsity: float
) -> list[np.ndarray]:
    """Choose the switches that stay on, so that the target is met to within one group.

    The switcher has decided how density spreads over the layers: the density of a layer is its
    share of positive logits. One number, added to the log-odds of every layer's density, moves the
    total to the target, so that no layer empties before the others. Within a layer, the largest
    logits stay on. The rest that rounding to whole groups leaves is given to, or taken from, the
    layer where it fits best.

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
