"""Residual networks of 18 and 34 layers."""

import functools

import keras
from keras import KerasTensor, layers

from keras_switcher.models.blocks import classifier, convolution, is_small, pixels, scaled


def resnet(
    input_shape: tuple[int, int, int],
    num_classes: int,
    *,
    blocks: tuple[int, ...],
    name: str,
    width: float = 1.0,
    dropout: float = 0.0,
) -> keras.Model:
    """A residual network of basic blocks.

    For small images (under 64 pixels), it starts with a 3x3 convolution, as is usual on CIFAR; for
    larger ones, with the 7x7 convolution and the max pooling of the paper. The only dense layer is
    the last one.

    Args:
        input_shape: Height, width and channels of an image.
        num_classes: Number of logits.
        blocks: Number of basic blocks in each of the stages, which have 64, 128, 256, ... channels.
        name: Name of the model.
        width: Multiplier of the channels of every convolution.
        dropout: Share of features dropped before the dense layer in training; 0 adds no layer.

    Returns:
        A Functional Keras model from pixel values (0 to 255) to float32 logits.

    Reference:
        - [He et al., 2016](https://arxiv.org/abs/1512.03385)
    """
    inputs = keras.Input(input_shape, name="image")
    x = pixels(inputs)
    channels = scaled(64, width)
    if is_small(input_shape):
        x = convolution(x, channels, 3, "stem")
    else:
        x = convolution(x, channels, 7, "stem", strides=2)
        x = layers.MaxPooling2D(3, 2, padding="same", name="stem_pool")(x)
    for stage, count in enumerate(blocks, start=1):
        for block in range(1, count + 1):
            strides = 2 if stage > 1 and block == 1 else 1
            channels = scaled(64 * 2 ** (stage - 1), width)
            x = _basic_block(x, channels, strides, f"stage{stage}_block{block}")
    x = layers.GlobalAveragePooling2D(name="average_pool")(x)
    return keras.Model(inputs, classifier(x, (), num_classes, dropout), name=name)


def _basic_block(x: KerasTensor, channels: int, strides: int, name: str) -> KerasTensor:
    shortcut = x
    if strides > 1 or x.shape[-1] != channels:
        shortcut = convolution(x, channels, 1, f"{name}_shortcut", strides=strides, relu=False)
    x = convolution(x, channels, 3, f"{name}_conv1", strides=strides)
    x = convolution(x, channels, 3, f"{name}_conv2", relu=False)
    return layers.ReLU(name=f"{name}_out")(layers.Add(name=f"{name}_add")([x, shortcut]))


resnet18 = functools.partial(resnet, blocks=(2, 2, 2, 2), name="resnet18")
resnet34 = functools.partial(resnet, blocks=(3, 4, 6, 3), name="resnet34")
