"""Small made-up data and models that several tests share."""

import keras
import numpy as np
from keras import ops

from keras_switcher import Alternation, SwitchedDense, SwitchedModel

INPUTS, CLASSES = 12, 4


def separable(examples: int = 128, inputs: int = INPUTS, seed: int = 0):
    """Return well separated clusters, one for each class, and their labels."""
    rng = np.random.default_rng(seed)
    labels = np.arange(examples) % CLASSES
    centers = rng.normal(size=(CLASSES, inputs))
    features = centers[labels] + 0.3 * rng.normal(size=(examples, inputs))
    return features.astype("float32"), labels.astype("int32")


def network(units=(16,), seed: int = 0, inputs: int = INPUTS, **layer) -> SwitchedModel:
    """Return a functional switched model whose dense layers are all switched."""
    keras.utils.set_random_seed(seed)
    x = given = keras.Input((inputs,))
    for width in units:
        x = SwitchedDense(width, "relu", **layer)(x)
    return SwitchedModel(given, SwitchedDense(CLASSES, **layer)(x))


class Own(SwitchedModel):
    """A subclass whose own code makes the forward pass."""

    def __init__(self):
        super().__init__()
        self.hidden = SwitchedDense(16, "relu")
        self.last = SwitchedDense(CLASSES)

    def call(self, inputs):
        return self.last(self.hidden(inputs))


def compiled(model: SwitchedModel, **options) -> SwitchedModel:
    """Compile for classification; eagerly, as tracing takes longer than a few small steps."""
    options = {
        "optimizer": keras.optimizers.Adam(0.01),
        "switcher_optimizer": keras.optimizers.Adam(0.01),
        "loss": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        "metrics": ["accuracy"],
        "target_sparsity": 0.5,
        # A few steps are to have turns.
        "alternation": Alternation(task_steps=2),
        "run_eagerly": True,
        **options,
    }
    model.compile(**options)
    return model


def always(task_steps: int = 1, switcher_steps: int = 1) -> Alternation:
    """Return an alternation without warm-up, ramp and settling."""
    return Alternation(task_steps, switcher_steps, warmup=0.0, settle=0.0, ramp=0.0)


def only_warmup() -> Alternation:
    """Return an alternation that gives the switcher no turn in a short training."""
    return Alternation(warmup=0.999, settle=0.0)


def arrays(variables) -> list[np.ndarray]:
    """Return the values of variables, copied."""
    return [np.array(ops.convert_to_numpy(v)) for v in variables]


def switches(model) -> list[np.ndarray]:
    """Return the switches of every switched layer."""
    return arrays(layer.switches for layer in model.switched_layers())


def everything(model: SwitchedModel) -> list[np.ndarray]:
    """Return all that a training run changes, apart from metrics and random seeds."""
    optimizers = (model.optimizer, model.switcher_optimizer)
    return arrays([*model.weights, *(v for o in optimizers for v in o.variables)])


def assert_identical(first, second) -> None:
    """Assert that two lists of arrays are equal to the bit."""
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)


def are_identical(first, second) -> bool:
    """Return whether two lists of arrays are equal to the bit."""
    return all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
