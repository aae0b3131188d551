"""Measure PQuantML's soft mask as the package computes it, and without its sort of all weights.

A step masks a kernel and takes the gradient. Both forms take turns, a block of steps each, and each
block is compared with the package's of the same round; outcomes must be the same to the bit.

    python benchmarks/soft_mask.py --shape 300 784 --sparsity 0.95
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

from timing import count, in_turns, share

PACKAGE, OWN = "package", "without sorting"


def step_of(kind: str, shape: tuple[int, int], sparsity: float) -> Callable[[], list[Any]]:
    """Return a compiled step of one form."""
    import numpy as np
    import pquant
    import tensorflow as tf
    from pquant.core.keras.pruning_methods.pdp import PDP

    from keras_switcher.compare.soft_masks import without_sorting

    pruning = PDP(pquant.pdp_config(), "linear")
    pruning.build(shape)
    pruning.post_pre_train_function()
    pruning.r.assign(sparsity)
    if kind == OWN:
        without_sorting(pruning)
    weight = tf.Variable(0.05 * np.random.default_rng(0).normal(size=shape).astype("float32"))

    @tf.function
    def step() -> list[Any]:
        with tf.GradientTape() as tape:
            masked = pruning(weight)
            gradient = tape.gradient(masked, weight)
        return [masked, tf.convert_to_tensor(gradient)]

    return step


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--shape", type=count, nargs=2, default=(300, 784), help="of the kernel")
    parser.add_argument("--sparsity", type=share, default=0.95)
    parser.add_argument("--threads", type=count, default=1)
    parser.add_argument("--steps", type=count, default=20)
    parser.add_argument("--rounds", type=count, default=9)
    args = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ["TF_NUM_INTRAOP_THREADS"] = str(args.threads)

    steps = {kind: step_of(kind, tuple(args.shape), args.sparsity) for kind in (PACKAGE, OWN)}
    for packages, own in zip(steps[PACKAGE](), steps[OWN](), strict=True):
        if not (packages.numpy() == own.numpy()).all():
            raise SystemExit("Expected the same numbers. Received: others")

    def block(kind: str) -> float:
        start = time.perf_counter()
        for _ in range(args.steps):
            steps[kind]()[1].numpy()
        return (time.perf_counter() - start) / args.steps

    seconds = in_turns((PACKAGE, OWN), args.rounds, block)
    ratios = [own / package for package, own in zip(seconds[PACKAGE], seconds[OWN], strict=True)]
    for kind in (PACKAGE, OWN):
        print(f"{kind}: {1e3 * statistics.median(seconds[kind]):.1f} ms")
    print(f"ratio: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
