"""ResNet, VGG16 and MobileNet against what was published of them."""

import math

import keras
import numpy as np
import pytest

from keras_switcher import models, switch

CIFAR = (32, 32, 3)
NAMES = ["resnet18", "resnet34", "vgg16", "mobilenet"]


def trainable(model: keras.Model) -> int:
    return sum(math.prod(variable.shape) for variable in model.trainable_variables)


def outputs(model: keras.Model, ending: str) -> list[tuple[int, ...]]:
    return [layer.output.shape[1:] for layer in model.layers if layer.name.endswith(ending)]


def pixels(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)


@pytest.fixture
def without_weights(monkeypatch):
    """Kernels of zeros, where they are only counted: hundreds of millions of random ones."""
    monkeypatch.setattr(
        keras.initializers.VarianceScaling,
        "__call__",
        lambda _, shape, dtype=None, **layout: keras.ops.zeros(shape, dtype),
    )


@pytest.mark.usefixtures("without_weights")
@pytest.mark.parametrize(
    ("name", "shape", "classes", "parameters"),
    [
        # The CIFAR forms: kuangliu/pytorch-cifar.
        ("resnet18", CIFAR, 10, 11_173_962),
        ("resnet34", CIFAR, 10, 21_282_122),
        ("mobilenet", CIFAR, 10, 3_217_226),
        # On ImageNet: torchvision's models, and MobileNet of Keras applications.
        ("resnet18", (224, 224, 3), 1000, 11_689_512),
        ("resnet34", (224, 224, 3), 1000, 21_797_672),
        ("vgg16", (224, 224, 3), 1000, 138_365_992),
        ("mobilenet", (224, 224, 3), 1000, 4_231_976),
    ],
)
def test_trainable_parameters_as_published(name, shape, classes, parameters):
    model = models.build(name, shape, classes)
    assert trainable(model) == parameters
    assert model.output_shape == (None, classes)
    assert model.name == name


@pytest.mark.usefixtures("without_weights")
def test_vgg16_has_the_convolutions_of_the_paper_and_the_classifier_that_was_asked_for():
    convolutions = 14_714_688 + 2 * 4224
    hidden = 512 * 4096 + 4096 + 4096 * 4096 + 4096
    model = models.build("vgg16", CIFAR, 10)
    assert trainable(model) == convolutions + hidden + 4096 * 10 + 10
    small = models.build("vgg16", CIFAR, 10, fc_units=512)
    assert trainable(small) == convolutions + 2 * (512 * 512 + 512) + 512 * 10 + 10
    narrow = models.build("vgg16", CIFAR, 10, width=0.25, fc_units=512)
    assert [narrow.get_layer(name).units for name in ("dense1", "dense2", "logits")] == [
        *(128, 128, 10)
    ]


@pytest.mark.parametrize(
    ("size", "expected"), [(32, [32, 16, 8, 4]), (28, [28, 14, 7, 4]), (224, [56, 28, 14, 7])]
)
def test_resnet_halves_images_between_its_stages(size, expected):
    model = models.build("resnet34", (size, size, 3), 10, width=0.1)
    shapes = outputs(model, "_out")
    assert [shape[0] for shape in dict.fromkeys(shapes)] == expected
    assert len(shapes) == 3 + 4 + 6 + 3
    assert [shape[2] for shape in dict.fromkeys(shapes)] == [6, 13, 26, 51]


@pytest.mark.parametrize(
    ("size", "expected"),
    [(32, [16, 8, 4, 2, 1]), (28, [14, 7, 4, 2, 1]), (224, [112, 56, 28, 14, 7])],
)
def test_vgg16_halves_images_after_each_stage(size, expected):
    model = models.build("vgg16", (size, size, 1), 10, width=0.05)
    assert [shape[0] for shape in outputs(model, "_pool")] == expected


@pytest.mark.parametrize(
    ("size", "expected"),
    [(32, [32, 16, 8, 4, 2]), (28, [28, 14, 7, 4, 2]), (224, [112, 56, 28, 14, 7])],
)
def test_mobilenet_keeps_small_images_in_its_stem(size, expected):
    model = models.build("mobilenet", (size, size, 3), 10, width=0.1)
    sizes = [shape[0] for shape in outputs(model, "_pointwise")]
    assert list(dict.fromkeys([model.get_layer("stem").output.shape[1], *sizes])) == expected
    assert len(sizes) == 13


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(28, 28, 1), (32, 32, 3)])
def test_every_dense_layer_is_switched(name, shape):
    model = models.build(name, shape, 100, width=0.05, dropout=0.1)
    dense = [layer.name for layer in model.layers if isinstance(layer, keras.layers.Dense)]
    sparse = switch(model)
    assert [layer.name for layer in sparse.switched_layers()] == dense
    assert dense == (["dense1", "dense2", "logits"] if name == "vgg16" else ["logits"])
    assert sparse.output_shape == (None, 100)


@pytest.mark.parametrize("name", NAMES)
def test_takes_raw_pixels_and_returns_logits(name):
    keras.utils.set_random_seed(0)
    model = models.build(name, CIFAR, 10, width=0.05)
    images = pixels(4, *CIFAR)
    logits = model.predict(images, verbose=0)
    assert logits.dtype == np.float32
    assert (logits < 0).any()
    inner = keras.Model(model.input, model.get_layer("rescaling").output)
    np.testing.assert_allclose(
        inner.predict(images, verbose=0), images / 127.5 - 1, rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("name", NAMES)
def test_initialised_and_normalised_as_usual_on_cifar(name):
    model = models.build(name, CIFAR, 10, width=0.5)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            assert (layer.momentum, layer.epsilon) == (0.9, 1e-5)
        if type(layer) is keras.layers.Conv2D:
            fan_in = math.prod(layer.kernel.shape[:3])
            std = float(np.std(np.asarray(layer.kernel)))
            assert std == pytest.approx(math.sqrt(2 / fan_in), rel=0.15)
            assert layer.use_bias == (name == "vgg16")
        if type(layer) is keras.layers.DepthwiseConv2D:
            # Each unit reads one channel.
            std = float(np.std(np.asarray(layer.kernel)))
            assert std == pytest.approx(math.sqrt(2 / 9), rel=0.15)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet"])
def test_dropout_acts_before_the_only_dense_layer(name):
    model = models.build(name, CIFAR, 10, width=0.05, dropout=0.5)
    assert [layer.name for layer in model.layers][-2:] == ["dropout", "logits"]
    assert model.get_layer("dropout").rate == 0.5
    assert "dropout" not in [layer.name for layer in models.build(name, CIFAR, 10, 0.05).layers]


def test_units_are_refused_where_there_are_none_to_choose():
    with pytest.raises(ValueError, match="Model 'resnet18' has no dense hidden.*fc_units=512"):
        models.build("resnet18", CIFAR, 10, fc_units=512)
    with pytest.raises(ValueError, match="`fc_units` must be an integer >= 1.*fc_units=0"):
        models.build("vgg16", CIFAR, 10, fc_units=0)
