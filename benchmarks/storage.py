"""Find the sparsity from which a sparse layer is as fast as a dense one, for each way to store it.

python benchmarks/storage.py --json docs/results/storage.json

One dense layer of each shape is converted, filled with random zeros (single ones, or whole blocks),
stored in each way and timed in fresh processes, in shuffled order. The break-even is read off by
interpolating between the sparsities. The defaults of `export.storage.Thresholds` come from here.
"""

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from timing import count, new_file, share

from export import flatbuffer, runtime
from export.benchmark import machine
from export.convert import Precision, convert
from export.csr import BLOCKS, Storage
from export.sparsify import store
from export.weights import weights
from keras_switcher.files import write_json

SHAPES = ((400, 120), (512, 512), (1024, 1024), (3136, 1024))
SPARSITIES = (0.6, 0.75, 0.85, 0.9, 0.95, 0.98)
KINDS = (
    (Storage.CSR, Precision.FLOAT32),
    (Storage.BLOCK4, Precision.FLOAT32),
    (Storage.BLOCK16, Precision.DYNAMIC),
)


def shape(text: str) -> tuple[int, int]:
    """Return the value of a flag that is the shape of a kernel, such as 400x120."""
    try:
        inputs, units = map(count, text.split("x"))
    except (ValueError, argparse.ArgumentTypeError) as error:
        raise argparse.ArgumentTypeError(f"expected 400x120. Received: {text}") from error
    return inputs, units


def main() -> None:
    """Time every shape, storage and sparsity, and print the break-evens."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", nargs="+", type=shape, default=SHAPES, metavar="INxUNITS")
    parser.add_argument("--sparsities", nargs="+", type=share, default=SPARSITIES)
    parser.add_argument("--rows", type=count, default=1, help="inputs of the layer in one call")
    parser.add_argument("--processes", type=count, default=3)
    parser.add_argument("--seconds", type=float, default=0.2)
    parser.add_argument("--json", type=new_file)
    args = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for inputs, units in args.shapes:
            files = {
                (kind, sparsity): path
                for kind, precision in KINDS
                for sparsity, path in _files(
                    Path(folder), inputs, units, kind, precision, args.sparsities, args.rows
                ).items()
            }
            measured = runtime.measure(
                list(files.values()), processes=args.processes, seconds=args.seconds
            )
            times = {key: measured[path][0].latency.median_us for key, path in files.items()}
            rows += [_row(inputs, units, kind, args.sparsities, times) for kind, _ in KINDS]
            _show(rows[-len(KINDS) :])
    if args.json:
        write_json(args.json, {"machine": machine(), "rows": rows, "inputs_per_call": args.rows})


def _files(
    folder: Path,
    inputs: int,
    units: int,
    kind: Storage,
    precision: Precision,
    sparsities: list[float],
    rows: int,
) -> dict[float | None, Path]:
    """Write a file for every sparsity, and one for the dense layer."""
    block = BLOCKS[kind]
    if inputs % block:
        return {}
    rng = np.random.default_rng(0)
    given = keras.Input((inputs,), name="x")
    layer = keras.layers.Dense(units)
    model = keras.Model(given, layer(given))
    values = rng.normal(size=(inputs, units)).astype("float32")
    order = rng.permutation(inputs // block * units).reshape(inputs // block, units)
    files: dict[float | None, Path] = {}
    for sparsity in (None, *sparsities):
        on = order >= (sparsity or 0) * order.size
        layer.set_weights([values * np.repeat(on, block, axis=0), np.zeros(units)])
        model_read = flatbuffer.read(convert(model, precision, batch=rows))
        if sparsity is not None:
            (weight,) = weights(model_read)
            model_read = store(model_read, {weight.tensor: kind})
        path = folder / f"{inputs}x{units}-{kind}-{sparsity}.tflite"
        path.write_bytes(flatbuffer.write(model_read))
        files[sparsity] = path
    return files


def _row(
    inputs: int,
    units: int,
    kind: Storage,
    sparsities: list[float],
    times: dict[tuple[Storage, float | None], float],
) -> dict[str, Any]:
    found = {s: times[kind, s] for s in sparsities if (kind, s) in times}
    dense = times.get((kind, None))
    return {
        "inputs": inputs,
        "units": units,
        "storage": str(kind),
        "dense_us": dense,
        "sparse_us": {str(s): round(t, 2) for s, t in found.items()},
        "break_even": None if dense is None else _break_even(found, dense),
    }


def _break_even(found: dict[float, float], dense: float) -> float | None:
    """Return the sparsity at which the time falls to that of the dense layer."""
    points = sorted(found.items())
    if points[0][1] <= dense:
        return points[0][0]
    for (low, slow), (high, fast) in zip(points, points[1:], strict=False):
        if fast <= dense:
            return round(low + (high - low) * (slow - dense) / (slow - fast), 3)
    return None


def _show(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        times = "  ".join(f"{s}: {t:.1f}" for s, t in row["sparse_us"].items())
        dense = "-" if row["dense_us"] is None else f"{row['dense_us']:.1f}"
        shape = f"{row['inputs']}x{row['units']}"
        print(
            f"{shape:>10} {row['storage']:8} dense {dense:>7} us  {times}  "
            f"break-even {row['break_even']}",
            flush=True,
        )


if __name__ == "__main__":
    main()
