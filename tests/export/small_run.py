"""A small finished run, as `train.py` leaves it, without training."""

import json
from pathlib import Path

import keras
import numpy as np

from keras_switcher import models

CONFIG = "model: lenet300\ndataset: mnist5k\nlimit: 300\nvalidation: 0.1\n"


def sparse_lenet300(width: float = 0.1, density: float = 0.1, seed: int = 0) -> keras.Model:
    """Return a small LeNet-300-100 most of whose weights are zero."""
    keras.utils.set_random_seed(seed)
    model = models.build("lenet300", (28, 28, 1), 10, width=width)
    rng = np.random.default_rng(seed)
    for layer in model.layers:
        if isinstance(layer, keras.layers.Dense) and layer.name != "logits":
            kernel, bias = layer.get_weights()
            mask = rng.random(kernel.shape) < density
            layer.set_weights([kernel * mask, rng.normal(size=bias.shape)])
    return model


def write_run(folder: Path, model: keras.Model, config: str = CONFIG, **summary) -> Path:
    """Write what a finished run leaves."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(config)
    model.save(folder / "stripped.keras")
    facts = {"model": "lenet300", "dataset": "mnist5k", "fc_sparsity": 0.9, "model_sparsity": 0.89}
    dense = [layer for layer in model.layers if isinstance(layer, keras.layers.Dense)]
    facts["layers"] = [{"connections": int(np.prod(layer.kernel.shape))} for layer in dense]
    (folder / "summary.json").write_text(json.dumps({**facts, **summary}))
    return folder
