"""Measure how the cost of a training step grows with a layer's units and inputs, and the batch.

One dense hidden layer is switched. For each number of units, of inputs and of examples in a batch,
with the other two as in LeNet-300-100's first layer, three models train by turns: one whose
switcher has a turn after every step; one whose switcher never has any; and one with plain `Dense`
layers. The cost of the masks, of applying them and of summing up the gradients by the switches, is
the difference of the latter two. The cost of a turn is that of the former two. A power law is
fitted to the turn, and to the number of multiply-adds that it should take:

- the switcher, inputs x hidden x inputs for each unit: 2 * inputs * hidden * units per pass. Two
  passes forward, and those backward to its weights and activations, take 7 times half of that.
  Without a hidden layer, it is inputs x inputs for each unit, twice forward and once backward.
  With `--switcher orthogonal`, the kernel is made orthogonal once besides: with up to as many units
  as inputs, 1.5 * inputs * units**2, and otherwise with the two exchanged;
- a few passes over the kernel and the switches: 20 * inputs * units.

The batch is not in it, as the turn uses the gradients that the task step has left. The fitted
exponent is printed beside that of the count. `--workers` adds the seconds per step of a
multi-worker training, with one thread for each worker, over the number of workers.

    python benchmarks/scaling.py --json scaling.json
"""

import argparse
import os
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf
from multiworker import train
from timing import block_seconds, count, in_turns, new_file

from keras_switcher import Alternation, switch
from keras_switcher.files import write_json
from keras_switcher.switchers import configured

INPUTS, UNITS, BATCH = 784, 300, 128
KINDS = ("plain", "masks", "turns")
# More steps than any measurement takes.
_NEVER = 10**6


def model(inputs: int, units: int, kind: str, args: argparse.Namespace) -> keras.Model:
    """Return a compiled network with one dense hidden layer: a plain one, or one with switches."""
    keras.utils.set_random_seed(0)
    network = keras.Sequential(
        [
            keras.Input((inputs,)),
            keras.layers.Dense(units, "relu", name="wide"),
            keras.layers.Dense(10),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    if kind == "plain":
        network.compile("adam", loss, jit_compile=False)
        return network
    switcher = configured(args.switcher, hidden=(args.hidden,) if args.hidden else ())
    switched = switch(network, layers="wide", switcher=switcher)
    task_steps = 1 if kind == "turns" else _NEVER
    course = Alternation(task_steps=task_steps, warmup=0.0, settle=0.0)
    switched.compile("adam", loss, target_sparsity=0.95, alternation=course, jit_compile=False)
    return switched


def batches(inputs: int, batch: int, steps: int) -> tf.data.Dataset:
    """Return batches of made-up features."""
    random = np.random.default_rng(0)
    x = random.normal(size=(4 * batch, inputs)).astype("float32")
    y = random.integers(0, 10, 4 * batch).astype("int32")
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(batch, drop_remainder=True)
    return data.cache().repeat().take(steps).prefetch(2)


def multiply_adds(inputs: int, units: int, args: argparse.Namespace) -> float:
    """Return about how many multiply-adds a switcher's turn takes."""
    per_connection = 7.0 * args.hidden if args.hidden else 3.0 * inputs
    if args.switcher == "orthogonal":
        per_connection = 3 * inputs + 1.5 * min(inputs, units)
    return (per_connection + 20) * inputs * units


def measure(
    args: argparse.Namespace, *, inputs: int = INPUTS, units: int = UNITS, batch: int = BATCH
) -> dict[str, Any]:
    """Return the milliseconds of a plain step, of the masks and of the switcher's turn."""
    models = {kind: model(inputs, units, kind, args) for kind in KINDS}
    data = batches(inputs, batch, args.steps)
    seconds = in_turns(
        KINDS, args.rounds, lambda kind: block_seconds(models[kind], data, args.steps)
    )

    def more(kind: str, base: str) -> float:
        return statistics.median(b - a for a, b in zip(seconds[base], seconds[kind], strict=True))

    plain, turn_seconds = statistics.median(seconds["plain"]), more("turns", "masks")
    return {
        "inputs": inputs,
        "units": units,
        "batch": batch,
        "plain_ms": 1e3 * plain,
        "masks_ms": 1e3 * more("masks", "plain"),
        "turn_ms": 1e3 * turn_seconds,
        "turn_of_plain": turn_seconds / plain,
        "turn_multiply_adds": multiply_adds(inputs, units, args),
    }


def exponent(x: Sequence[float], y: Sequence[float]) -> float | None:
    """Return the exponent of the power law that fits best; `None` if a time is not above 0."""
    if min(y) <= 0:
        return None
    # No "-0.00" where nothing grows.
    return round(float(np.polyfit(np.log(x), np.log(y), 1)[0]), 6) + 0.0


def text(found: float | None) -> str:
    """Return an exponent as text."""
    return "unknown (more --steps and --rounds needed)" if found is None else f"{found:.2f}"


def grown(rows: list[dict[str, Any]], name: str) -> dict[str, Any]:
    """Print how the turn grows with a quantity; return it."""
    values = [row[name] for row in rows]
    found: dict[str, Any] = {
        "over": name,
        "exponent_of_turn": exponent(values, [row["turn_ms"] for row in rows]),
        "exponent_of_count": exponent(values, [row["turn_multiply_adds"] for row in rows]),
        "exponent_of_plain": exponent(values, [row["plain_ms"] for row in rows]),
        "rows": rows,
    }
    for row in rows:
        print(
            f"{row['inputs']} inputs, {row['units']} units, batch {row['batch']}: plain "
            f"{row['plain_ms']:.2f} ms, masks {row['masks_ms']:.2f} ms, turn "
            f"{row['turn_ms']:.2f} ms, ratio {row['turn_of_plain']:.2f}"
        )
    print(
        f"  over {name}: a turn grows with exponent {text(found['exponent_of_turn'])}, its "
        f"multiply-adds with {text(found['exponent_of_count'])}, a plain step with "
        f"{text(found['exponent_of_plain'])}",
        flush=True,
    )
    return found


def over_workers(counts: list[int]) -> dict[str, Any]:
    """Return the milliseconds per step of LeNet over the number of workers, and how they grow."""
    flags = ["--model", "lenet", "--dataset", "mnist5k", "--epochs", "4"]
    # Otherwise one process would have all cores, and several would share them.
    os.environ.update(TF_NUM_INTRAOP_THREADS="1", TF_NUM_INTEROP_THREADS="1")
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        for count in counts:
            row = train(count, 0, flags, Path(scratch) / str(count))
            rows.append({"workers": count, "ms_per_step": row["ms_per_step"]})
    for row in rows:
        row["ratio"] = row["ms_per_step"] / rows[0]["ms_per_step"]
        print(f"{row['workers']} workers: {row['ms_per_step']:.2f} ms, ratio {row['ratio']:.2f}")
    found = exponent(counts, [row["ms_per_step"] for row in rows])
    print(
        f"  over workers, the same global batch: exponent {text(found)}; ideal is -1, if each "
        "has a core of its own"
    )
    return {"exponent": found, "rows": rows}


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--units", type=count, nargs="+", default=[128, 256, 512, 1024, 2048])
    parser.add_argument("--inputs", type=count, nargs="+", default=[196, 392, 784, 1568])
    parser.add_argument("--batches", type=count, nargs="+", default=[32, 64, 128, 256, 512])
    parser.add_argument("--workers", type=count, nargs="*", default=[1, 2])
    parser.add_argument("--switcher", choices=("unit", "orthogonal"), default="unit")
    parser.add_argument(
        "--hidden", type=int, default=64, help="the switcher's hidden layer; 0 for none"
    )
    parser.add_argument("--steps", type=count, default=40)
    parser.add_argument("--rounds", type=count, default=5)
    parser.add_argument("--json", type=new_file, help="where to write the figures")
    args = parser.parse_args()
    for name in ("units", "inputs", "batches", "workers"):
        if len(set(getattr(args, name))) == 1:
            parser.error(f"expected several values of --{name}, to see how the cost grows")
    result: dict[str, Any] = {
        "switcher": args.switcher,
        "hidden": args.hidden if args.switcher == "unit" else 0,
        "growth": [
            grown([measure(args, units=units) for units in args.units], "units"),
            grown([measure(args, inputs=inputs) for inputs in args.inputs], "inputs"),
            grown([measure(args, batch=batch) for batch in args.batches], "batch"),
        ],
    }
    if args.workers:
        result["workers"] = over_workers(args.workers)
    if args.json:
        write_json(args.json, result)


if __name__ == "__main__":
    main()
