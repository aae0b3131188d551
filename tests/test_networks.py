import keras
import numpy as np
import pytest

from keras_switcher.config import from_values
from keras_switcher.data import ImageData
from keras_switcher.networks import dense_model, new_start, steps_together, switched_model


def data(examples=1200):
    images = np.zeros((examples, 8, 8, 1), "uint8")
    labels = (np.arange(examples) % 10).astype("int32")
    names = tuple("0123456789")
    return ImageData("made", "made", *(3 * (images, labels)), num_classes=10, class_names=names)


def config(**options):
    return from_values({"model": "lenet300", "width": 0.1, "batch_size": 10, **options})


@pytest.mark.parametrize(
    ("options", "together"),
    [
        # 120 batches in an epoch.
        ({"steps_per_execution": 16, "epochs": 100}, 15),
        ({"steps_per_execution": 7, "epochs": 100}, 6),
        ({"steps_per_execution": 1, "epochs": 100}, 1),
        # A hundredth of the training is six steps, or none.
        ({"steps_per_execution": 16, "epochs": 5}, 6),
        ({"steps_per_execution": 16, "epochs": 1, "batch_size": 100}, 1),
        ({"steps_per_execution": 16, "epochs": 100, "strategy": "mirrored"}, 1),
    ],
)
def test_steps_together_divide_an_epoch_and_leave_the_phases_their_lengths(options, together):
    assert steps_together(config(**options), data()) == together


def test_both_networks_are_compiled_as_configured():
    options = config(
        **{"steps_per_execution": 16, "epochs": 100, "multiplier_rate": 0.2},
        **{"switcher_optimizer": "sgd", "switcher_learning_rate": 0.5},
        **{"switcher_activation": "tanh", "switcher_normalization": "layer"},
    )
    images = data()
    start = new_start(options, images)
    switched, dense = switched_model(options, images, start), dense_model(options, images, start)
    assert switched.steps_per_execution == dense.steps_per_execution == 15
    assert switched.multiplier_rate == 0.2
    assert isinstance(switched.switcher_optimizer, keras.optimizers.SGD)
    assert float(switched.switcher_optimizer.learning_rate) == 0.5
    assert switched.switcher_optimizer.momentum == 0.9
    switcher = switched.switched_layers()[0].switcher
    assert switcher.activation.__name__ == "tanh" and switcher.normalization == "layer"
