"""One switched layer, its inputs and its switches."""

import numpy as np

from keras_switcher import SwitchedDense

GRANULARITIES = ["connection", "block4", "block16", "unit"]
POLICIES = ["float32", "mixed_float16", "mixed_bfloat16", "float16", "bfloat16", "float64"]


def values(*shape, seed=0, dtype="float32"):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def built(units=5, inputs=18, **arguments):
    layer = SwitchedDense(units, **arguments)
    layer.build((None, inputs))
    return layer


def random_switches(layer, seed=0):
    """Turn about half of the switches off."""
    switches = np.random.default_rng(seed).integers(0, 2, layer.switches.shape).astype("float32")
    switches[0, 0], switches[-1, -1] = 0, 1
    layer.switches.assign(switches)
    return switches


def spread(layer, switches):
    """The switch of each connection, by definition."""
    inputs, units = layer.kernel.shape
    size = {"connection": 1, "block4": 4, "block16": 16, "unit": inputs}[layer.granularity.name]
    return np.array([[switches[i // size, j] for j in range(units)] for i in range(inputs)])
