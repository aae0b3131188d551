"""The figures of a finished run, which `summary.json` holds."""

import gzip
from typing import Any

import keras

from keras_switcher.config import Config
from keras_switcher.data import ImageData
from keras_switcher.metrics import layer_table, switcher_parameters


def summary_of(
    config: Config,
    data: ImageData,
    switched: keras.Model,
    stripped: keras.Model,
    rows: list[dict[str, Any]],
) -> dict[str, Any]:
    """Return what is known of a run without its test examples.

    Args:
        config: The configuration.
        data: The data, whose counts are told.
        switched: The trained network, with its switches.
        stripped: The same as plain Keras.
        rows: Its history, a row for each epoch.
    """
    layers = layer_table(switched)
    parameters = stripped.count_params()
    off = sum(layer["connections"] - layer["on"] for layer in layers)
    phases = [row["phase"] for row in rows]
    return {
        "model": config.network.name,
        "init_from": config.network.init_from,
        "freeze_trunk": config.network.freeze_trunk,
        "dataset": config.data.dataset,
        "dataset_source": data.source,
        "train_examples": len(data.x_train),
        "validation_examples": len(data.x_validation),
        "test_examples": len(data.x_test),
        "epochs": config.optimisation.epochs,
        "seed": config.optimisation.seed,
        "target_sparsity": config.switching.target_sparsity,
        "granularity": config.switching.granularity,
        "validation_accuracy": rows[-1]["val_accuracy"],
        "fc_sparsity": off / sum(layer["connections"] for layer in layers),
        "model_sparsity": off / parameters,
        "parameters": parameters,
        "switcher_parameters": switcher_parameters(switched),
        "gzip_bytes": gzip_bytes(stripped),
        "seconds": seconds(rows),
        "phases": {phase: phases.count(phase) for phase in dict.fromkeys(phases)},
        "layers": layers,
    }


def seconds(rows: list[dict[str, Any]]) -> float:
    """Return the seconds of all epochs of a history."""
    return round(sum(row["seconds"] for row in rows), 3)


def gzip_bytes(model: keras.Model) -> int:
    """Return the compressed size of a model's weights, which shows what zeros save in a file."""
    return len(gzip.compress(b"".join(w.tobytes() for w in model.get_weights()), mtime=0))
