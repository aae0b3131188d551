"""Measure step time and peak memory of a switched model against the same one of plain Dense.

It also measures `prune_low_magnitude` of TensorFlow Model Optimization against the same network of
plain layers of Keras 2, in a process of its own (`--no-tfmot` leaves this out).

The two models of Keras 3, like the two of Keras 2, train on the same batches in one process, taking
turns, a block of steps each. Each block is compared with the plain model's block of the same round,
and the median ratio over the rounds is printed, so that a change of the machine's speed during the
run affects both. The timed part of a block consists of whole periods: it has as many task steps for
each turn of the switcher as a training. Memory is the peak resident size of a process that trains
one of them, and the part of it above the size that the process had after its imports.

    python benchmarks/step_time.py --model lenet300 --json step_time.json
    python benchmarks/step_time.py --model resnet18 --image 32 32 3 --width 0.25 -b 64 --steps 10
"""

import argparse
import gc
import importlib
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from typing import Any

from timing import (
    batches,
    block_seconds,
    block_steps,
    count,
    in_turns,
    names_of,
    new_file,
    per_step,
)

PLAIN, SWITCHED = "plain", "switched"
TFMOT = "tfmot"
# By default, tfmot chooses anew once in this many steps.
PRUNING_STEPS = 100


def build(kind: str, args: argparse.Namespace) -> Any:
    """Return a compiled model of a kind: plain or switched."""
    import keras

    import keras_switcher
    from keras_switcher import Alternation, models

    keras.utils.set_random_seed(0)
    keras.config.set_dtype_policy(args.precision)
    net = models.build(args.model, args.image, 10, width=args.width, dropout=args.dropout)
    options = {
        "loss": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        "metrics": ["accuracy"],
        "jit_compile": args.jit,
        "steps_per_execution": args.steps_per_execution,
    }
    if kind == PLAIN:
        net.compile(args.optimizer, **options)
        return net
    switcher = keras_switcher.switchers.configured(args.switcher, hidden=args.switcher_hidden)
    net = keras_switcher.switch(net, switcher=switcher, granularity=args.granularity)
    net.compile(
        args.optimizer,
        target_sparsity=0.95,
        # The alternate phase, the costliest, throughout.
        alternation=Alternation(task_steps=args.task_steps, warmup=0.0, settle=0.0),
        **options,
    )
    return net


def build_keras_2(kind: str, args: argparse.Namespace) -> Any:
    """Return a compiled model of Keras 2: plain, or its dense layers wrapped by tfmot."""
    import keras
    import tensorflow_model_optimization as tfmot
    import tf_keras

    from keras_switcher import models
    from keras_switcher.compare.methods.tfmot import to_keras_2

    keras.utils.set_random_seed(0)
    net = models.build(args.model, args.image, 10, width=args.width, dropout=args.dropout)
    model = to_keras_2(net)
    if kind == TFMOT:
        schedule = tfmot.sparsity.keras.PolynomialDecay(
            0.0, 0.95, 0, 10**6, frequency=PRUNING_STEPS
        )
        model = tf_keras.models.clone_model(
            model,
            clone_function=lambda layer: (
                tfmot.sparsity.keras.prune_low_magnitude(layer, schedule)
                if isinstance(layer, tf_keras.layers.Dense)
                else layer
            ),
        )
    model.compile(
        args.optimizer,
        tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def measure_keras_2(args: argparse.Namespace) -> dict[str, Any]:
    """Train the two models of Keras 2 in turn and return the figures; for a process of its own."""
    import tensorflow_model_optimization as tfmot
    import tf_keras

    kinds = (PLAIN, TFMOT)
    args.steps, before = block_steps(args.steps, PRUNING_STEPS)
    models = {kind: build_keras_2(kind, args) for kind in kinds}
    data = batches(args)

    def block(kind: str) -> float:
        times: list[tuple[int, float]] = []
        timer = tf_keras.callbacks.LambdaCallback(
            on_batch_end=lambda batch, logs: times.append((batch, time.perf_counter()))
        )
        own = [tfmot.sparsity.keras.UpdatePruningStep()] if kind == TFMOT else []
        callbacks = [*own, timer]
        models[kind].fit(data, steps_per_epoch=args.steps, verbose=0, callbacks=callbacks)
        return per_step(times, before)

    seconds = in_turns(kinds, args.rounds, block)
    ratios = sorted(s / p for s, p in zip(seconds[TFMOT], seconds[PLAIN], strict=True))
    return {
        "keras_2_plain_ms": 1e3 * statistics.median(seconds[PLAIN]),
        "tfmot_ms": 1e3 * statistics.median(seconds[TFMOT]),
        "tfmot_time_ratio": statistics.median(ratios),
        "tfmot_time_ratio_range": [ratios[0], ratios[-1]],
    }


def train_and_watch(args: argparse.Namespace) -> dict[str, float]:
    """Train one model for three blocks; return MiB at the peak and above the imports."""
    from keras_switcher.peak_memory import forget_peak, peak_mib

    if args.memory_of.startswith("keras_2_"):
        for name in ("tensorflow_model_optimization", "keras_switcher.compare.methods.tfmot"):
            importlib.import_module(name)
    forget_peak()
    imported = peak_mib()
    if args.memory_of.startswith("keras_2_"):
        kind = args.memory_of.removeprefix("keras_2_")
        _train_keras_2(build_keras_2(kind, args), kind, args)
    else:
        model = build(args.memory_of, args)
        # Free the network that it was made from, as in a training.
        gc.collect()
        for _ in range(3):
            block_seconds(model, batches(args), args.steps, args.before)
    peak = peak_mib()
    return {"peak": peak, "training": peak - imported}


def _train_keras_2(model: Any, kind: str, args: argparse.Namespace) -> None:
    import tensorflow_model_optimization as tfmot

    callbacks = [tfmot.sparsity.keras.UpdatePruningStep()] if kind == TFMOT else []
    gc.collect()
    for _ in range(3):
        model.fit(batches(args), steps_per_epoch=args.steps, verbose=0, callbacks=callbacks)


def memory(kind: str) -> dict[str, float]:
    """Return the result of `train_and_watch` in a process of its own."""
    command = [sys.executable, __file__, "--memory-of", kind, *sys.argv[1:]]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Train the models in turn and return the figures."""
    kinds = [PLAIN, SWITCHED]
    models = {kind: build(kind, args) for kind in kinds}
    data = batches(args)
    seconds = in_turns(
        kinds, args.rounds, lambda kind: block_seconds(models[kind], data, args.steps, args.before)
    )
    plain = memory(PLAIN)
    result: dict[str, Any] = {
        **{k: v for k, v in vars(args).items() if k not in ("json", "memory_of", "keras_2")},
        "plain_ms": 1e3 * statistics.median(seconds[PLAIN]),
        "plain_peak_mib": plain["peak"],
        "plain_training_mib": plain["training"],
    }
    for kind in kinds[1:]:
        ratios = sorted(s / p for s, p in zip(seconds[kind], seconds[PLAIN], strict=True))
        own = memory(kind)
        result |= {
            f"{kind}_ms": 1e3 * statistics.median(seconds[kind]),
            f"{kind}_time_ratio": statistics.median(ratios),
            f"{kind}_time_ratio_range": [ratios[0], ratios[-1]],
            f"{kind}_peak_mib": own["peak"],
            f"{kind}_memory_ratio": own["peak"] / plain["peak"],
            f"{kind}_training_mib": own["training"],
            f"{kind}_training_memory_ratio": own["training"] / plain["training"],
        }
    if args.tfmot:
        command = [sys.executable, __file__, "--keras-2", *sys.argv[1:]]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        plain, own = memory(f"keras_2_{PLAIN}"), memory(f"keras_2_{TFMOT}")
        result |= {
            **json.loads(done.stdout),
            "tfmot_peak_mib": own["peak"],
            "tfmot_memory_ratio": own["peak"] / plain["peak"],
            "tfmot_training_mib": own["training"],
            "tfmot_training_memory_ratio": own["training"] / plain["training"],
        }
    return result


def show(result: dict[str, Any]) -> None:
    """Print a line for each model."""
    print(
        f"{result['model']}, width {result['width']}, batch {result['batch_size']}: plain "
        f"{result['plain_ms']:.2f} ms/step, peak memory {result['plain_peak_mib']:.0f} MiB, of it "
        f"above the imports {result['plain_training_mib']:.0f} MiB"
    )
    for kind, name in (
        (SWITCHED, "switched"),
        (TFMOT, "tfmot, against plain Keras 2"),
    ):
        if f"{kind}_ms" in result:
            figures = {k.removeprefix(f"{kind}_"): v for k, v in result.items()}
            low, high = figures["time_ratio_range"]
            print(
                f"  {name}: {figures['ms']:.2f} ms/step, ratio {figures['time_ratio']:.3f} "
                f"({low:.3f} to {high:.3f}); peak memory {figures['peak_mib']:.0f} MiB, ratio "
                f"{figures['memory_ratio']:.2f}; above the imports "
                f"{figures['training_mib']:.0f} MiB, ratio {figures['training_memory_ratio']:.2f}"
            )


def main() -> None:
    """Measure, print the figures and write them as JSON."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="lenet300", help="a name of keras_switcher.models")
    parser.add_argument("--image", type=int, nargs=3, default=(28, 28, 1), help="its shape")
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("-b", "--batch-size", type=count, default=128)
    parser.add_argument(
        "--steps", type=int, default=126, help="about so many training steps in a block"
    )
    parser.add_argument("--rounds", type=count, default=9, help="blocks of each model")
    parser.add_argument("--task-steps", type=count, help="task steps per switcher turn")
    parser.add_argument(
        "--switcher-hidden", type=int, nargs="*", default=(64,), help="widths; none for no layer"
    )
    parser.add_argument("--switcher", default="unit", help="a registered name")
    parser.add_argument("--granularity", default="connection")
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--optimizer", default="adam", help="of the task network")
    parser.add_argument("--precision", default="float32", help="a dtype policy of Keras")
    parser.add_argument("--jit", action="store_true", help="compile by XLA")
    parser.add_argument("--steps-per-execution", type=count, default=1)
    parser.add_argument(
        "--no-tfmot", dest="tfmot", action="store_false", help="without the peer on Keras 2"
    )
    parser.add_argument("--json", type=new_file, help="where to write the figures")
    parser.add_argument("--keras-2", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.tfmot and (args.jit, args.precision, args.steps_per_execution) != (False, "float32", 1):
        parser.error("expected --no-tfmot beside --jit, --precision and --steps-per-execution")

    from keras_switcher import Alternation, granularity, models, switchers
    from keras_switcher.flags import WITHOUT_HIDDEN

    with names_of(parser):
        models.MODELS.get(args.model)
        granularity.get(args.granularity)
        switchers.registry.get(args.switcher)
    if args.switcher in WITHOUT_HIDDEN:
        args.switcher_hidden = ()
    args.image, args.switcher_hidden = tuple(args.image), tuple(args.switcher_hidden)
    args.task_steps = args.task_steps or Alternation().task_steps
    peer = ("tensorflow_model_optimization", "tf_keras")
    if args.tfmot and not all(map(importlib.util.find_spec, peer)):
        parser.error("expected the packages of the extra 'compare', or --no-tfmot")
    args.steps, args.before = block_steps(args.steps, args.task_steps, args.steps_per_execution)
    if args.memory_of:
        import keras_switcher.data  # noqa: F401

        print(json.dumps(train_and_watch(args)))
        return
    if args.keras_2:
        print(json.dumps(measure_keras_2(args)))
        return
    result = measure(args)
    show(result)
    if args.json:
        from keras_switcher.files import write_json

        write_json(args.json, result)


if __name__ == "__main__":
    main()
