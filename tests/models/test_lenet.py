import keras
import numpy as np
import pytest

from keras_switcher import models


@pytest.fixture
def mixed_float16():
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    yield
    keras.config.set_dtype_policy(before)


def layer_names(model: keras.Model) -> list[str]:
    return [layer.name for layer in model.layers]


def pixels(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)


@pytest.mark.parametrize(("name", "parameters"), [("lenet", 431_080), ("lenet300", 266_610)])
def test_parameters_as_in_the_pruning_literature(name, parameters):
    model = models.build(name, (28, 28, 1), 10)
    assert model.count_params() == parameters
    assert model.name == name
    assert model.output_shape == (None, 10)


def test_layer_names_are_stable():
    assert layer_names(models.build("lenet", (28, 28, 1), 10)) == [
        "image",
        "rescaling",
        "conv1",
        "pool1",
        "conv2",
        "pool2",
        "flatten",
        "dense1",
        "logits",
    ]
    assert layer_names(models.build("lenet300", (28, 28, 1), 10, dropout=0.1)) == [
        "image",
        "rescaling",
        "flatten",
        "dense1",
        "dropout1",
        "dense2",
        "dropout2",
        "logits",
    ]


@pytest.mark.parametrize("name", ["lenet", "lenet300"])
def test_takes_raw_pixels_and_returns_logits(name):
    model = models.build(name, (28, 28, 1), 10)
    images = pixels(4, 28, 28, 1)
    logits = model.predict(images, verbose=0)
    assert logits.dtype == np.float32
    assert (logits < 0).any()  # no softmax, no ReLU
    scaled = keras.Model(model.get_layer("rescaling").output, model.output)
    np.testing.assert_allclose(
        scaled.predict(images.astype(np.float32) / 255, verbose=0), logits, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("name", ["lenet", "lenet300"])
def test_hidden_layers_are_rectified(name):
    model = models.build(name, (28, 28, 1), 10)
    weighted = [layer for layer in model.layers if layer.weights and layer.name != "logits"]
    inner = keras.Model(model.input, [layer.output for layer in weighted])
    for activations in inner.predict(pixels(4, 28, 28, 1), verbose=0):
        assert activations.min() == 0
        assert activations.max() > 0


@pytest.mark.parametrize("name", ["lenet", "lenet300"])
def test_logits_stay_float32_under_mixed_precision(name, mixed_float16):
    model = models.build(name, (28, 28, 1), 10)
    assert model.get_layer("dense1").compute_dtype == "float16"
    assert model.output.dtype == "float32"
    assert model.predict(pixels(2, 28, 28, 1), verbose=0).dtype == np.float32


def test_width_scales_hidden_layers_only():
    model = models.build("lenet", (28, 28, 1), 10, width=0.25)
    units = {
        layer.name: layer.kernel.shape[-1] for layer in model.layers if hasattr(layer, "kernel")
    }
    assert units == {"conv1": 5, "conv2": 12, "dense1": 125, "logits": 10}
    thin = models.build("lenet300", (28, 28, 1), 7, width=1e-6)
    assert [thin.get_layer(name).units for name in ("dense1", "dense2", "logits")] == [1, 1, 7]


def test_dropout_acts_in_training_alone():
    model = models.build("lenet", [28, 28, 1], 10, dropout=0.5)
    assert model.get_layer("dropout1").rate == 0.5
    images = pixels(4, 28, 28, 1)
    assert np.array_equal(model(images), model(images))
    assert not np.array_equal(model(images, training=True), model(images, training=True))


def test_other_shapes_and_class_counts():
    assert models.build("lenet", (16, 16, 3), 2).output_shape == (None, 2)
    assert models.build("lenet300", (5, 7, 2), 100).get_layer("dense1").kernel.shape == (70, 300)


def test_models_learn():
    keras.utils.set_random_seed(0)
    labels = np.arange(64) % 2
    images = np.zeros((64, 16, 16, 1), np.uint8)
    images[labels == 0, :8] = 255
    images[labels == 1, 8:] = 255
    model = models.build("lenet", (16, 16, 1), 2, width=0.2)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, metrics=["accuracy"])
    model.fit(images, labels, epochs=10, verbose=0)
    assert model.evaluate(images, labels, verbose=0)[1] == 1


def test_registered_model_is_built_by_name():
    def flat(input_shape, num_classes, *, width, dropout):
        inputs = keras.Input(input_shape)
        x = keras.layers.Flatten()(inputs)
        return keras.Model(inputs, keras.layers.Dense(num_classes)(x), name=f"flat{width}{dropout}")

    models.MODELS.register("test-flat")(flat)
    model = models.build("test-flat", (2, 2, 1), 3, 0.5, 0.25)
    assert "test-flat" in models.MODELS.names()
    assert model.name == "flat0.50.25"
    assert model.count_params() == 15


def test_unknown_model_lists_what_exists():
    with pytest.raises(ValueError, match="Unknown model 'lenet30'. Did you mean 'lenet300'?"):
        models.build("lenet30", (28, 28, 1), 10)


@pytest.mark.parametrize(
    ("arguments", "received"),
    [
        ({"input_shape": (28, 28)}, r"input_shape=\(28, 28\)"),
        ({"input_shape": (28, 28, 0)}, r"input_shape=\(28, 28, 0\)"),
        ({"input_shape": (28, 28.0, 1)}, r"input_shape=\(28, 28.0, 1\)"),
        ({"input_shape": (None, 28, 1)}, r"input_shape=\(None, 28, 1\)"),
        ({"input_shape": 784}, "input_shape=784"),
        ({"input_shape": (15, 28, 1)}, r"input_shape=\(15, 28, 1\)"),
        ({"num_classes": 1}, "num_classes=1"),
        ({"num_classes": 10.0}, "num_classes=10.0"),
        ({"width": 0}, "width=0"),
        ({"width": -0.5}, "width=-0.5"),
        ({"width": float("nan")}, "width=nan"),
        ({"width": float("inf")}, "width=inf"),
        ({"width": "1"}, "width='1'"),
        ({"dropout": 1.0}, "dropout=1.0"),
        ({"dropout": -0.1}, "dropout=-0.1"),
        ({"dropout": None}, "dropout=None"),
    ],
)
def test_bad_arguments_are_named(arguments, received):
    valid = {"input_shape": (28, 28, 1), "num_classes": 10}
    with pytest.raises(ValueError, match=f"Received: {received}$"):
        models.build("lenet", **valid | arguments)
