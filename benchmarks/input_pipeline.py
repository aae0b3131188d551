"""Measure whether the input pipeline keeps the processor busy with training.

A model trains alternately on the batches that `train.py` gives it (shuffled, gathered, augmented in
the background) and on one batch that lies ready in memory, a block of steps each. The ratio of a
pair of blocks is the cost of waiting for data and of preparing it on the same cores. The time that
the pipeline needs by itself is given beside it.

    python benchmarks/input_pipeline.py --model resnet18 --width 0.25 --json input_pipeline.json
"""

import argparse
import os
import statistics
import time
from typing import Any

from timing import block_seconds, count, in_turns, names_of, new_file

if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

EXAMPLES = 20_000


def pipeline(args: argparse.Namespace, steps: int) -> Any:
    """Return that many batches of made-up images, prepared as for a training run."""
    import numpy as np

    from keras_switcher.batches import training_batches

    random = np.random.default_rng(0)
    x = random.integers(0, 256, (EXAMPLES, *args.image), dtype="uint8")
    y = random.integers(0, 10, EXAMPLES, dtype="int32")
    batches = training_batches(
        *(x, y, args.batch_size),
        seed=0,
        epochs=steps // (EXAMPLES // args.batch_size) + 1,
        augmentation=args.augmentation,
    )
    return batches.take(steps)


def ready(args: argparse.Namespace, steps: int) -> Any:
    """Return the same batch over and over."""
    import tensorflow as tf

    return tf.data.Dataset.from_tensors(next(iter(pipeline(args, 1)))).repeat(steps)


def build(args: argparse.Namespace) -> Any:
    """Return the compiled model."""
    import keras

    from keras_switcher import Alternation, models, switch

    model = switch(models.build(args.model, args.image, 10, width=args.width))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(
        "sgd",
        loss,
        metrics=["accuracy"],
        target_sparsity=0.95,
        # The alternate phase, the costliest, throughout.
        alternation=Alternation(warmup=0.0, settle=0.0),
    )
    return model


def measure(args: argparse.Namespace, model: Any) -> dict[str, Any]:
    """Train on both in turn; return the milliseconds per step and their ratio."""
    kinds = {"pipeline": pipeline(args, args.steps), "ready": ready(args, args.steps)}

    found = in_turns(
        list(kinds), args.pairs, lambda kind: block_seconds(model, kinds[kind], args.steps)
    )
    ratios = sorted(a / b for a, b in zip(found["pipeline"], found["ready"], strict=True))
    data = pipeline(args, 200)
    start = time.perf_counter()
    for _ in data:
        pass
    return {
        **{name: value for name, value in vars(args).items() if name != "json"},
        "pipeline_step_ms": 1e3 * statistics.median(found["pipeline"]),
        "ready_step_ms": 1e3 * statistics.median(found["ready"]),
        "ratio": statistics.median(ratios),
        "ratio_range": [ratios[0], ratios[-1]],
        "pipeline_alone_ms": 1e3 * (time.perf_counter() - start) / 200,
    }


def main() -> None:
    """Measure, print a line of figures and write them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="resnet18", help="a name of keras_switcher.models")
    parser.add_argument("--image", type=int, nargs=3, default=(32, 32, 3), help="its shape")
    parser.add_argument("--width", type=float, default=0.25)
    parser.add_argument("-b", "--batch-size", type=count, default=64)
    parser.add_argument("--augmentation", default="crop_flip")
    parser.add_argument("--steps", type=count, default=20, help="training steps in a block")
    parser.add_argument("--pairs", type=count, default=7, help="blocks on each kind of data")
    parser.add_argument("--json", type=new_file, help="where to write the figures")
    args = parser.parse_args()
    args.image = tuple(args.image)
    if args.steps < 5 or args.batch_size > EXAMPLES:
        parser.error(f"expected at least 5 --steps, of batches of at most {EXAMPLES}")
    with names_of(parser):
        pipeline(args, 1)
        model = build(args)
    result = measure(args, model)
    low, high = result["ratio_range"]
    print(
        f"{args.model}, width {args.width}, batch {args.batch_size}, {args.augmentation}: "
        f"{result['pipeline_step_ms']:.1f} ms/step on the pipeline, {result['ready_step_ms']:.1f} "
        f"on a batch that lies ready, ratio {result['ratio']:.3f} ({low:.3f} to {high:.3f}); the "
        f"pipeline by itself takes {result['pipeline_alone_ms']:.2f} ms a batch"
    )
    if args.json:
        from keras_switcher.files import write_json

        write_json(args.json, result)


if __name__ == "__main__":
    main()
