"""A small piece of work for the methods of a comparison."""

import keras
import numpy as np
from command import SMALL
from rich.console import Console

from keras_switcher.compare.work import Work
from keras_switcher.fitting import load_data
from keras_switcher.flags import resolve
from keras_switcher.signals import StopSignals


def work(folder, *flags, target=0.9, found=None, base=SMALL) -> Work:
    """Return a work of 16 steps: LeNet-300-100, a fifth as wide, on 270 images."""
    config = resolve([*base, "--target-sparsity", str(target), "--no-deterministic", *flags])
    keras.utils.set_random_seed(config.optimisation.seed)
    data = load_data(config)
    folder.mkdir(parents=True, exist_ok=True)
    return Work(
        config, data, data, folder, found or {}, StopSignals(), Console(quiet=True, width=100)
    )


def normalised() -> keras.Model:
    """Return a network that normalises its inputs by what it saw of the data."""
    network = keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Normalization(),
            keras.layers.Dense(20, "relu", name="hidden"),
            keras.layers.Dense(3),
        ]
    )
    network.layers[0].adapt(np.random.default_rng(0).integers(0, 256, (100, 6)))
    return network


def sparsity(layers) -> float:
    """Return the sparsity of all layers together."""
    return 1 - sum(row["on"] for row in layers) / sum(row["connections"] for row in layers)
