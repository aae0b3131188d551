"""Write large networks with zeros in three patterns, to see what the web runtime makes of each.

    python benchmarks/web_files.py DIR
    for zeros in connection block4 block16; do
        python -m export DIR/$zeros.keras --optimize latency --no-measure --out DIR/$zeros
        node export/web/benchmark.mjs DIR/$zeros
    done

The networks, 784-2048-2048-10, are not trained; a random 5 % of their two large kernels is left.
"""

import argparse
from pathlib import Path

import keras
import numpy as np

DENSITY = 0.05
PATTERNS = {"connection": 1, "block4": 4, "block16": 16}


def network(block: int) -> keras.Model:
    """Return a network with zeros in blocks of this many inputs of a unit."""
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    inputs = keras.Input((28, 28, 1), name="image")
    x = keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(inputs))
    for name in ("first", "second"):
        x = keras.layers.Dense(2048, "relu", name=name)(x)
    model = keras.Model(inputs, keras.layers.Dense(10, name="logits")(x))
    for name in ("first", "second"):
        kernel, bias = model.get_layer(name).get_weights()
        groups = rng.random((kernel.shape[0] // block, kernel.shape[1])) < DENSITY
        kernel = kernel * np.repeat(groups, block, axis=0) / np.sqrt(DENSITY)
        model.get_layer(name).set_weights([kernel, bias])
    return model


def main() -> None:
    """Write a file for each pattern."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="folder to write, made if it is missing")
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    for name, block in PATTERNS.items():
        network(block).save(folder / f"{name}.keras")


if __name__ == "__main__":
    main()
