"""Measure the seconds per training step of a switched model under each option of execution.

The same model trains with the defaults of `train.py`, with several steps in one execution, compiled
by XLA and in mixed precision, all in one process, taking turns, a block of steps each. Each block
is compared with the defaults' block of the same round, and the median ratio over the rounds is
printed: below 1, the option is faster. The switcher has its turns throughout.

    python benchmarks/execution.py --model resnet18 --image 32 32 3 --width 0.25 -b 64
"""

import argparse
import os
import statistics
from typing import Any

from timing import batches, block_seconds, block_steps, count, in_turns, names_of, new_file

if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

DEFAULTS = "defaults"
TOGETHER = 4
OPTIONS: dict[str, dict[str, Any]] = {
    DEFAULTS: {},
    f"steps_per_execution={TOGETHER}": {"steps_per_execution": TOGETHER},
    "jit": {"jit_compile": True},
    "mixed_bfloat16": {"precision": "mixed_bfloat16"},
    "mixed_float16": {"precision": "mixed_float16"},
}


def build(options: dict[str, Any], args: argparse.Namespace) -> Any:
    """Return a compiled switched model with these options."""
    import keras

    from keras_switcher import Alternation, models, switch

    options = {"jit_compile": False, "precision": "float32", **options}
    keras.utils.set_random_seed(0)
    keras.config.set_dtype_policy(options.pop("precision"))
    model = switch(models.build(args.model, args.image, 10, width=args.width))
    model.compile(
        "sgd",
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        target_sparsity=0.95,
        # The alternate phase, the costliest, throughout; a turn in each execution of several steps.
        alternation=Alternation(task_steps=TOGETHER, warmup=0.0, settle=0.0),
        **options,
    )
    keras.config.set_dtype_policy("float32")
    return model


def measure(args: argparse.Namespace, models: dict[str, Any]) -> dict[str, Any]:
    """Train with every option in turn; return the figures by option."""
    args.steps, before = block_steps(args.steps, TOGETHER, TOGETHER)
    data = batches(args)

    def block(name: str) -> float:
        return block_seconds(models[name], data, args.steps, before)

    seconds = in_turns(list(models), args.rounds, block)
    figures: dict[str, Any] = {}
    for name, values in seconds.items():
        ratios = sorted(v / d for v, d in zip(values, seconds[DEFAULTS], strict=True))
        figures[name] = {
            "ms": 1e3 * statistics.median(values),
            "ratio": statistics.median(ratios),
            "range": [ratios[0], ratios[-1]],
        }
    return figures


def main() -> None:
    """Measure, print the figures and write them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="lenet300", help="a name of keras_switcher.models")
    parser.add_argument("--image", type=int, nargs=3, default=(28, 28, 1), help="its shape")
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("-b", "--batch-size", type=count, default=128)
    parser.add_argument("--steps", type=int, default=40, help="about how many a block has")
    parser.add_argument("--rounds", type=count, default=5, help="blocks of each option")
    parser.add_argument("--json", type=new_file, help="where to write the figures")
    args = parser.parse_args()
    args.image = tuple(args.image)
    if args.steps < 2 * TOGETHER:
        parser.error(f"expected --steps to be at least {2 * TOGETHER}. Received: {args.steps}")

    with names_of(parser):
        models = {name: build(options, args) for name, options in OPTIONS.items()}
    figures = measure(args, models)
    print(f"{args.model}, width {args.width}, batch {args.batch_size}: a switched model's step")
    for name, figure in figures.items():
        low, high = figure["range"]
        print(
            f"  {name}: {figure['ms']:.2f} ms, ratio {figure['ratio']:.2f} "
            f"({low:.2f} to {high:.2f})"
        )
    if args.json:
        from keras_switcher.files import write_json

        settings = {k: v for k, v in vars(args).items() if k != "json"}
        write_json(args.json, {**settings, "options": figures})


if __name__ == "__main__":
    main()
