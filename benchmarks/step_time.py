"""Seconds per training step and peak memory: a switched model against the same one of plain Dense.

Both models train on the same batches in the same process, in turn, a block of steps each; the ratio
of a pair of blocks is taken, and the median of the pairs is printed. So a change of the machine's
speed during the run falls on both. Memory is the peak resident size of a process that trains one
of the two, and what of it lies above the size that the process had after its imports.

    python benchmarks/step_time.py --model lenet300 --json step_time.json
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


def build(kind: str, model: str, config: dict[str, Any]) -> Any:
    """Return a compiled model: `kind` is "plain" or "switched"."""
    import keras

    import keras_switcher
    from keras_switcher import Alternation, models

    keras.utils.set_random_seed(0)
    net = models.build(model, (28, 28, 1), 10, dropout=config["dropout"])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    if kind == "plain":
        net.compile("adam", loss, metrics=["accuracy"])
        return net
    net = keras_switcher.switch(net, granularity=config["granularity"])
    net.compile(
        "adam",
        "adam",
        loss,
        ["accuracy"],
        target_sparsity=0.95,
        # The alternate phase throughout: the dearest one.
        alternation=Alternation(task_steps=config["task_steps"], warmup=0.0, settle=0.0),
        reuse_features=config["reuse_features"],
    )
    return net


def batches(batch_size: int, steps: int) -> Any:
    """Return batches of made images; the time of a step does not depend on what they show."""
    import numpy as np
    import tensorflow as tf

    random = np.random.default_rng(0)
    x = random.integers(0, 256, (batch_size * 8, 28, 28, 1), dtype="uint8")
    y = random.integers(0, 10, batch_size * 8, dtype="int32")
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(batch_size, drop_remainder=True)
    return data.cache().repeat().take(steps).prefetch(2)


def block_seconds(model: Any, data: Any, steps: int) -> float:
    """Return the seconds per step of one `fit` over the data, its start left out."""
    import keras

    skipped = steps // 5
    times: list[float] = []
    timer = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: times.append(time.perf_counter())
    )
    model.fit(data, steps_per_epoch=steps, epochs=1, verbose=0, callbacks=[timer])
    return (times[-1] - times[skipped]) / (len(times) - 1 - skipped)


def train_and_watch(args: argparse.Namespace, config: dict[str, Any]) -> dict[str, float]:
    """Train one model for three blocks; return MiB at the peak and above the imports."""
    import psutil

    process = psutil.Process()
    imported = process.memory_info().rss
    sizes = [imported]
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.005):
            sizes.append(process.memory_info().rss)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    model = build(args.memory_of, args.model, config)
    for _ in range(3):
        block_seconds(model, batches(args.batch_size, args.steps), args.steps)
    done.set()
    watcher.join()
    return {"peak": max(sizes) / 2**20, "training": (max(sizes) - imported) / 2**20}


def memory(kind: str) -> dict[str, float]:
    """Return what `train_and_watch` returns, of a process of its own."""
    command = [sys.executable, __file__, "--memory-of", kind, *sys.argv[1:]]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def measure(args: argparse.Namespace, config: dict[str, Any]) -> dict[str, Any]:
    """Train both models in turn and return the figures."""
    models = {kind: build(kind, args.model, config) for kind in ("plain", "switched")}
    data = batches(args.batch_size, args.steps)
    for model in models.values():
        block_seconds(model, data, args.steps)
    seconds: dict[str, list[float]] = {"plain": [], "switched": []}
    for pair in range(args.pairs):
        for kind in ("plain", "switched") if pair % 2 == 0 else ("switched", "plain"):
            seconds[kind].append(block_seconds(models[kind], data, args.steps))
    ratios = sorted(s / p for s, p in zip(seconds["switched"], seconds["plain"], strict=True))
    plain, switched = memory("plain"), memory("switched")
    return {
        "model": args.model,
        "batch_size": args.batch_size,
        **config,
        "pairs": args.pairs,
        "steps": args.steps,
        "plain_ms": 1e3 * statistics.median(seconds["plain"]),
        "switched_ms": 1e3 * statistics.median(seconds["switched"]),
        "time_ratio": statistics.median(ratios),
        "time_ratio_range": [ratios[0], ratios[-1]],
        "plain_peak_mib": plain["peak"],
        "switched_peak_mib": switched["peak"],
        "memory_ratio": switched["peak"] / plain["peak"],
        "plain_training_mib": plain["training"],
        "switched_training_mib": switched["training"],
        "training_memory_ratio": switched["training"] / plain["training"],
    }


def main() -> None:
    """Measure, print a line of figures and write them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="lenet300", help="a name of keras_switcher.models")
    parser.add_argument("-b", "--batch-size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=60, help="training steps in a block")
    parser.add_argument("--pairs", type=int, default=9, help="blocks of each model")
    parser.add_argument("--task-steps", type=int, help="task steps per switcher turn")
    parser.add_argument("--granularity", default="connection")
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--no-reuse-features", action="store_true")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("--memory-of", choices=("plain", "switched"), help=argparse.SUPPRESS)
    args = parser.parse_args()

    from keras_switcher import Alternation

    config = {
        "task_steps": args.task_steps or Alternation().task_steps,
        "granularity": args.granularity,
        "dropout": args.dropout,
        "reuse_features": not args.no_reuse_features,
    }
    if args.memory_of:
        import keras_switcher.data  # noqa: F401

        print(json.dumps(train_and_watch(args, config)))
        return
    result = measure(args, config)
    low, high = result["time_ratio_range"]
    print(
        f"{args.model}, batch {args.batch_size}: plain {result['plain_ms']:.2f} ms/step, switched "
        f"{result['switched_ms']:.2f} ms/step, ratio {result['time_ratio']:.2f} ({low:.2f} to "
        f"{high:.2f}); peak memory {result['plain_peak_mib']:.0f} MiB and "
        f"{result['switched_peak_mib']:.0f} MiB, ratio {result['memory_ratio']:.2f}; above the "
        f"imports {result['plain_training_mib']:.0f} MiB and "
        f"{result['switched_training_mib']:.0f} MiB, ratio {result['training_memory_ratio']:.2f}"
    )
    if args.json:
        temporary = args.json.with_suffix(".partial")
        temporary.write_text(json.dumps(result, indent=2) + "\n")
        temporary.replace(args.json)


if __name__ == "__main__":
    main()
