"""Whole models of the families that the library trains."""

import keras
import numpy as np
import pytest
from compacting import (
    batch,
    compacted_like,
    dense_chain,
    edit,
    gathers,
    inputs,
    predictions,
    sparsify,
    units,
)
from keras import layers

from export.compact import compact
from keras_switcher import models, strip, switch
from keras_switcher.layers import switched_layers


def lenet():
    """LeNet with weights without a zero."""
    return dense_weights(models.build("lenet", (28, 28, 1), 10))


def dense_weights(model):
    """Give a model weights without a zero, and outputs of a size around 1."""
    rng = np.random.default_rng(0)
    for weight in model.weights:
        scale = 1.0 / np.sqrt(np.prod(weight.shape[:-1]))
        values = scale * rng.choice([-1, 1], weight.shape) * (0.5 + rng.random(weight.shape))
        weight.assign(np.abs(values) if weight.name == "moving_variance" else values)
    return model


def test_dead_channels_of_lenet_go_through_pooling_and_flatten():
    model = lenet()
    # Nobody reads these channels, at any of the 4x4 positions.
    channels = [3, 7, 49]
    rows = np.arange(800).reshape(16, 50)[:, channels].ravel()
    edit(model, "dense1", "kernel", np.s_[rows, :])
    edit(model, "conv2", "kernel", np.s_[:, :, 5, :])
    edit(model, "conv1", "kernel", np.s_[..., 11])
    edit(model, "conv1", "bias", 11, 0.5)
    compacted = compacted_like(model)
    assert units(compacted) == {"conv1": 18, "conv2": 47, "dense1": 500, "logits": 10}
    assert inputs(compacted)["dense1"] == 16 * 47
    assert gathers(compacted.model) == []
    # One pixel of a living channel: a gather.
    edit(model, "dense1", "kernel", np.s_[4, :])
    compacted = compacted_like(model)
    assert inputs(compacted)["dense1"] == 16 * 47 - 1
    np.testing.assert_array_equal(
        gathers(compacted.model), [[i for i in range(16 * 47) if i != 4 - 1]]
    )
    # Without one, the pixel stays, and the channels that go wholly go all the same.
    whole = compacted_like(model, gather=False)
    assert units(whole) == units(compacted)
    assert inputs(whole)["dense1"] == 16 * 47
    assert gathers(whole.model) == []


def test_dead_border_of_images_is_left_out_by_a_gather():
    model = dense_weights(models.build("lenet300", (28, 28, 1), 10))
    inside = np.zeros((28, 28), bool)
    inside[4:24, 5:25] = True
    edit(model, "dense1", "kernel", np.s_[~inside.ravel(), :])
    compacted = compacted_like(model)
    assert inputs(compacted) == {"dense1": 400, "dense2": 300, "logits": 100}
    np.testing.assert_array_equal(gathers(compacted.model), [np.flatnonzero(inside)])
    assert inputs(compact(model, 16))["dense1"] == 16 * np.unique(np.flatnonzero(inside) // 16).size
    assert inputs(compacted_like(model, gather=False))["dense1"] == 784


def test_conv_channels_go_in_groups_where_a_dense_layer_reads_them():
    given = keras.Input((6, 6, 1))
    x = layers.Conv2D(8, 3, activation="relu", name="conv")(given)
    model = keras.Model(given, layers.Dense(3, name="out")(layers.Flatten()(x)))
    dense_weights(model)
    edit(model, "out", "kernel", np.s_[[i for i in range(128) if i % 8 in (4, 5, 6)], :])
    assert units(compacted_like(model))["conv"] == 5
    assert units(compacted_like(model, 4))["conv"] == 8
    edit(model, "out", "kernel", np.s_[[i for i in range(128) if i % 8 == 7], :])
    compacted = compacted_like(model, 4)
    assert units(compacted)["conv"] == 4
    assert gathers(compacted.model) == []


def test_switched_model_is_smaller_after_strip_and_compact():
    model = switch(models.build("lenet300", (28, 28, 1), 10))
    rng = np.random.default_rng(0)
    for layer in switched_layers(model):
        density = 0.3 if layer.units == 10 else 0.02
        layer.switches.assign(rng.random(layer.switches.shape) < density)
    stripped = strip(model)
    compacted = compacted_like(stripped)
    assert compacted.model.count_params() < 0.9 * stripped.count_params()
    connections = {layer.name: layer.on_connections() for layer in switched_layers(model)}
    for change in compacted.layers:
        assert change.before.nonzeros == connections[change.name]
        assert change.after.nonzeros <= change.before.nonzeros


def residual(shape):
    """Small ResNet: batch normalisation, identity and projection shortcuts."""
    x = image = keras.Input(shape)
    x = layers.Conv2D(8, 3, padding="same", use_bias=False, name="stem")(x)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    for block, (filters, strides) in enumerate(((8, 1), (12, 2), (12, 1)), start=1):
        options = {"padding": "same", "use_bias": False}
        y = layers.Conv2D(filters, 3, strides, **options, name=f"block{block}_first")(x)
        y = layers.Activation("relu")(layers.BatchNormalization()(y))
        y = layers.Conv2D(filters, 3, **options, name=f"block{block}_second")(y)
        y = layers.BatchNormalization()(y)
        if strides > 1:
            x = layers.Conv2D(filters, 1, strides, name=f"block{block}_shortcut")(x)
            x = layers.BatchNormalization()(x)
        x = layers.ReLU()(layers.Add()([x, y]))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(image, layers.Dense(5)(x))


def vgg(shape):
    """Small VGG: convolutions with bias, dense layers with dropout."""
    x = image = keras.Input(shape)
    x = layers.Rescaling(1 / 2, offset=-0.1)(x)
    for filters in (6, 8):
        for _ in range(2):
            x = layers.Conv2D(filters, 3, padding="same", activation="relu")(x)
        x = layers.MaxPooling2D(2)(x)
    x = layers.Flatten()(x)
    for size in (20, 16):
        x = layers.Dropout(0.5)(layers.Dense(size, "relu")(x))
    return keras.Model(image, layers.Dense(5, "softmax")(x))


def mobile(shape):
    """Small MobileNet: depthwise convolutions, zero padding, relu6."""
    x = image = keras.Input(shape)
    x = layers.Conv2D(8, 3, 2, padding="same", use_bias=False)(x)
    x = layers.ReLU(6.0)(layers.BatchNormalization()(x))
    for filters, strides, multiplier in ((12, 1, 1), (16, 2, 2)):
        if strides > 1:
            x = layers.ZeroPadding2D(((0, 1), (0, 1)))(x)
        x = layers.DepthwiseConv2D(
            3,
            strides,
            padding="same" if strides == 1 else "valid",
            depth_multiplier=multiplier,
            use_bias=multiplier > 1,
        )(x)
        x = layers.ReLU(6.0)(layers.BatchNormalization()(x))
        x = layers.Conv2D(filters, 1, padding="same", use_bias=False)(x)
        x = layers.ReLU(6.0)(layers.BatchNormalization()(x))
    x = layers.GlobalAveragePooling2D(keepdims=True)(x)
    x = layers.Conv2D(5, 1)(layers.Dropout(0.1)(x))
    return keras.Model(image, layers.Softmax()(layers.Reshape((5,))(x)))


@pytest.mark.parametrize("build", [residual, vgg, mobile])
@pytest.mark.parametrize(("seed", "shape"), [(0, (12, 12, 3)), (1, (9, 14, 2))])
def test_families_of_networks_predict_the_same_with_less(build, seed, shape):
    model = sparsify(build(shape), seed)
    compacted = compacted_like(model)
    assert compacted.model.count_params() < model.count_params()
    compacted_like(model, 4)


def test_channel_that_no_block_of_a_residual_network_reads_goes_everywhere():
    model = dense_weights(residual((8, 8, 3)))
    # All that read the channels of the first stage: behind the stem, and behind the first block.
    for reader in ("block1_first", "block2_first", "block2_shortcut"):
        edit(model, reader, "kernel", np.s_[:, :, 2, :])
    before, after = units(compact(dense_weights(residual((8, 8, 3))))), units(compacted_like(model))
    smaller = {name: size for name, size in after.items() if before.get(name) != size}
    assert {"stem": 7, "block1_second": 7}.items() <= smaller.items()
    assert after["block1_first"] == 8


def test_depthwise_channels_go_with_their_input():
    image = keras.Input((6, 5, 3))
    x = layers.Conv2D(6, 1, activation="relu", name="expand")(image)
    x = layers.DepthwiseConv2D(3, depth_multiplier=2, activation="relu", name="depthwise")(x)
    model = dense_weights(keras.Model(image, layers.Conv2D(4, 1, name="project")(x)))
    # Channel 1 is constant before; channel 2 is not read behind; of channel 3 one half is.
    edit(model, "expand", "kernel", np.s_[..., 1])
    edit(model, "expand", "bias", 1, 0.75)
    edit(model, "project", "kernel", np.s_[:, :, [4, 5, 6], :])
    # The kernel of both halves of channel 4 is zero.
    edit(model, "depthwise", "kernel", np.s_[:, :, 4, :])
    edit(model, "depthwise", "bias", [8, 9], 0.5)
    assert units(compacted_like(model)) == {"expand": 3, "depthwise": 6, "project": 4}


@pytest.mark.parametrize(("padding", "left"), [("valid", 3), ("same", 4)])
def test_separable_convolutions_lose_inputs_and_channels(padding, left):
    image = keras.Input((6, 5, 3))
    x = layers.Conv2D(6, 1, activation="relu", name="expand")(image)
    x = layers.SeparableConv2D(
        5, 3, padding=padding, depth_multiplier=2, use_bias=False, name="separable"
    )(x)
    model = dense_weights(keras.Model(image, layers.Conv2D(4, 1, name="project")(x)))
    # Channel 1 is constant before; 2 is read with weights of 0, by one kernel and by the other.
    edit(model, "expand", "kernel", np.s_[..., 1])
    edit(model, "expand", "bias", 1, 0.75)
    edit(model, "separable", "pointwise_kernel", np.s_[:, :, 4, :])
    edit(model, "separable", "depthwise_kernel", np.s_[:, :, 2, 1])
    # Nobody reads channel 0 behind, and only channel 0 reads channel 4.
    edit(model, "project", "kernel", np.s_[:, :, 0, :])
    edit(model, "separable", "pointwise_kernel", np.s_[:, :, 8:10, 1:])
    # A channel without weights is the activation of its bias.
    edit(model, "separable", "pointwise_kernel", np.s_[:, :, :, 3])
    assert units(compacted_like(model)) == {"expand": left, "separable": 3, "project": 4}


def test_compacted_networks_are_saved_and_loaded(tmp_path):
    for build in (residual, vgg, mobile):
        model = compact(sparsify(build((8, 9, 2)))).model
        model.save(tmp_path / "small.keras")
        loaded = keras.models.load_model(tmp_path / "small.keras")
        given = batch(model)
        for old, new in zip(predictions(model, given), predictions(loaded, given), strict=True):
            np.testing.assert_array_equal(new, old)


def test_large_kernels_are_compacted_exactly():
    model = dense_chain(512, 4096, 4096, 10)
    rng = np.random.default_rng(0)
    for name, density in (("dense1", 0.02), ("dense2", 0.001), ("dense3", 0.3)):
        kernel = np.array(model.get_layer(name).kernel)
        kernel *= rng.random(kernel.shape, "float32") < density
        model.get_layer(name).kernel.assign(kernel)
        if name == "dense3":
            unread = ~kernel.any(axis=1)
    # Units of the first layer that only unread units of the second read are unread too.
    read = np.array(model.get_layer("dense2").kernel)[:, ~unread].any(axis=1)
    dead = ~np.array(model.get_layer("dense2").kernel).any(axis=0)
    compacted = compacted_like(model, atol=1e-4)
    assert units(compacted) == {
        "dense1": int(read.sum()),
        "dense2": int((~unread & ~dead).sum()),
        "dense3": 10,
    }
