"""The target sparsity as a constraint on the objective of the switchers."""

from typing import Any

from keras import ops

from keras_switcher.checks import is_number


def check_target(target_sparsity: float | None) -> float | None:
    """Return the target sparsity if it is valid.

    Args:
        target_sparsity: Share of the switched connections to turn off, in [0, 1), or `None`.

    Raises:
        ValueError: If it lies outside [0, 1) or is not a number.
    """
    if target_sparsity is None:
        return None
    if not is_number(target_sparsity) or not 0 <= target_sparsity < 1:
        raise ValueError(
            "Expected `target_sparsity` to be None or a share of connections in [0, 1), such as "
            f"0.95 for 95 %. Received: target_sparsity={target_sparsity!r}"
        )
    return float(target_sparsity)


def next_offset(offset: Any, density: Any, target: Any) -> Any:
    """Return the next offset of all logits, which brings the density closer to its target.

    The logits have unit variance within a layer, so the log-odds of the density rise about as fast
    as the offset. With a step of half the missing log-odds, at most 0.25, the density follows a
    course of some dozens of turns to a sparsity of about 99 %. Beyond, the tails of the logits
    decide, and it may lag behind.

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
