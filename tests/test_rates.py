"""Learning rates of switched kernels, which rise as their connections go."""

import keras
import numpy as np
import pytest
from small import CLASSES, INPUTS, arrays, network, separable

from keras_switcher import Alternation
from keras_switcher.rates import scale_rates


def step(optimizer, exponent, density=0.25):
    """Return by how much a step changes the first kernel and the first bias."""
    model = network()
    model.compile(
        optimizer(),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        alternation=Alternation(warmup=0.999, settle=0.0),
        rate_exponent=exponent,
        # Tracing takes longer than a step.
        run_eagerly=True,
    )
    layer = model.switched_layers()[0]
    inputs, units = layer.kernel.shape
    on = np.zeros((inputs, units), "float32")
    on[: int(density * inputs)] = 1
    layer.switches.assign(on)
    before = arrays([layer.kernel, layer.bias])
    model.train_on_batch(*separable(32))
    return [after - b for after, b in zip(arrays([layer.kernel, layer.bias]), before, strict=True)]


def several():
    kernels, others = keras.optimizers.SGD(0.1), keras.optimizers.SGD(0.1)
    return keras.optimizers.MultiOptimizer(lambda v: kernels if "kernel" in v.path else others)


@pytest.mark.parametrize(
    "optimizer",
    [
        several,
        lambda: keras.optimizers.SGD(0.1, momentum=0.9),
        lambda: keras.optimizers.Adam(0.01),
        lambda: keras.optimizers.AdamW(0.01),
        lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.01)),
    ],
)
def test_a_kernel_with_a_quarter_of_its_connections_takes_twice_the_step(optimizer):
    (kernel, bias), (scaled, same) = step(optimizer, 0.0), step(optimizer, 0.5)
    # The decay of AdamW, which is not scaled, is less than the tolerance.
    np.testing.assert_allclose(scaled, 2 * kernel, rtol=1e-3, atol=1e-4)
    np.testing.assert_array_equal(same, bias)
    assert np.abs(kernel).max() > 5e-3


def test_the_power_is_that_of_the_density():
    (kernel, _), (scaled, _) = (step(lambda: keras.optimizers.SGD(0.1), p) for p in (0.0, 1.0))
    np.testing.assert_allclose(scaled, 4 * kernel, rtol=1e-3, atol=1e-6)


def test_compiling_again_does_not_scale_twice():
    model, optimizer = network(), keras.optimizers.SGD(0.1)
    options = {"loss": "sparse_categorical_crossentropy", "rate_exponent": 1.0}
    model.compile(optimizer, **options)
    scale_rates(optimizer, model.switched_layers(), 1.0)
    layer = model.switched_layers()[0]
    layer.switches.assign(np.eye(INPUTS, 16, dtype="float32"))
    before = np.array(layer.kernel)
    gradients = [np.ones(v.shape, "float32") for v in model.task_variables]
    optimizer.apply(gradients, model.task_variables)
    expected = 0.1 * INPUTS * 16 / min(INPUTS, 16)
    np.testing.assert_allclose(before - np.array(layer.kernel), expected, rtol=1e-5)


def test_compiling_without_it_takes_it_away_again():
    model, optimizer = network(), keras.optimizers.SGD(0.1)
    for exponent in (1.0, 0.0):
        model.compile(optimizer, "mse", rate_exponent=exponent)
    layer = model.switched_layers()[0]
    layer.switches.assign(np.eye(INPUTS, 16, dtype="float32"))
    before = np.array(layer.kernel)
    optimizer.apply([np.ones(v.shape, "float32") for v in model.task_variables])
    np.testing.assert_allclose(before - np.array(layer.kernel), 0.1, rtol=1e-5)


def test_a_frozen_kernel_and_a_dead_layer_do_no_harm():
    model = network()
    first, second = model.switched_layers()
    first.trainable = False
    model.compile(
        "sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), run_eagerly=True
    )
    second.switches.assign(np.zeros(second.switches.shape, "float32"))
    kernel = np.array(first.kernel)
    model.train_on_batch(*separable(32))
    np.testing.assert_array_equal(first.kernel, kernel)
    assert all(np.isfinite(array).all() for array in arrays(model.weights))


@pytest.mark.parametrize("exponent", [-0.1, 1.5])
def test_a_wrong_exponent_is_refused(exponent):
    with pytest.raises(ValueError, match=r"Expected `rate_exponent` in \[0, 1\]"):
        network().compile("sgd", "mse", rate_exponent=exponent)


def test_it_is_kept_in_a_file(tmp_path):
    model = network()
    model.compile("sgd", "sparse_categorical_crossentropy", rate_exponent=0.25)
    model.save(tmp_path / "model.keras")
    assert keras.models.load_model(tmp_path / "model.keras").rate_exponent == 0.25
    assert CLASSES == model.output_shape[-1]
