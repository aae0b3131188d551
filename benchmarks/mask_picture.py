"""Draw what the first layer of a trained `lenet300` reads: the picture of the README.

python benchmarks/mask_picture.py runs/lenet300-mnist-1 docs/images/lenet300.png
"""

import argparse
import csv
import json
import os
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from matplotlib.figure import Figure

from keras_switcher.layers import switched_layers
from keras_switcher.report.masks import pixel_counts, unit_masks

UNITS = 24
INK, BLUE, RED = "#333333", "#256ac4", "#c4452f"


def main() -> None:
    """Read a run's folder and write the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="folder of a run of train.py, of lenet300")
    parser.add_argument("out", type=Path, help="PNG file to write")
    args = parser.parse_args()
    if not (args.run / "summary.json").exists():
        parser.error(f"expected the folder of a finished run of train.py. Received: {args.run}")
    summary = json.loads((args.run / "summary.json").read_text())
    with (args.run / "history.csv").open(newline="") as file:
        history = list(csv.DictReader(file))
    first = switched_layers(keras.models.load_model(args.run / "model.keras", compile=False))[0]
    shape = tuple(first.kernel.shape)
    if shape[0] != 28 * 28:
        parser.error(f"expected a first layer that reads 784 pixels. Received: {shape[0]} inputs")
    mask = np.broadcast_to(keras.ops.convert_to_numpy(first.expanded_switches()) > 0, shape)
    counts = pixel_counts(mask, (28, 28, 1))
    masks = unit_masks(mask, (28, 28, 1))

    figure = Figure(figsize=(10, 3.1), dpi=150, layout="constrained")
    parts: Any = figure.subfigures(1, 3, width_ratios=(1.05, 0.95, 1.5))
    course, pixels, units = parts

    axes = course.subplots()
    epochs = [int(row["epoch"]) for row in history]
    for column, colour, label in (
        ("sparsity", RED, "sparsity"),
        ("val_accuracy", BLUE, "validation accuracy"),
    ):
        values = [100 * float(row[column]) for row in history]
        axes.plot(epochs, values, color=colour, linewidth=2, label=label)
    axes.set_ylim(0, 104)
    axes.set_xlabel("epoch", color=INK)
    axes.set_ylabel("%", color=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right")
    right = summary["dense_test_accuracy"]
    axes.set_title(
        f"{100 * summary['fc_sparsity']:.1f} % off, {100 * summary['test_accuracy']:.2f} % right\n"
        f"on the test images{'' if right is None else f' (dense: {100 * right:.2f} %)'}",
        fontsize=10,
        color=INK,
    )

    axes = pixels.subplots()
    shown = axes.imshow(counts, cmap="Blues")
    axes.set_axis_off()
    axes.set_title(f"connections per pixel,\n{shape[1]} units together", fontsize=10, color=INK)
    pixels.colorbar(shown, ax=axes, shrink=0.8)

    # Units that read nothing have died out: they would be empty squares.
    alive = np.flatnonzero(mask.sum(axis=0))[:UNITS]
    for axes, unit in zip(units.subplots(4, 6).flat, alive, strict=False):
        axes.imshow(masks[unit], cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
        axes.set_xticks([])
        axes.set_yticks([])
        for spine in axes.spines.values():
            spine.set_color("#cccccc")
    units.suptitle(f"which pixels single units read ({len(alive)} of them)", fontsize=10, color=INK)

    args.out.parent.mkdir(parents=True, exist_ok=True)
    temporary = args.out.with_name(f".{args.out.name}")
    figure.savefig(temporary, format="png", facecolor="white", metadata={"Software": None})
    temporary.replace(args.out)


if __name__ == "__main__":
    main()
