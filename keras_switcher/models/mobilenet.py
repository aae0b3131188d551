"""MobileNet, version 1."""

import keras
from keras import layers

from keras_switcher.models.blocks import (
    batch_normalization,
    classifier,
    convolution,
    is_small,
    pixels,
    scaled,
)

# Channels and strides of the depthwise separable convolutions.
_BLOCKS = (
    *((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2)),
    *((512, 1),) * 5,
    *((1024, 2), (1024, 1)),
)


def mobilenet(
    input_shape: tuple[int, int, int],
    num_classes: int,
    *,
    width: float = 1.0,
    dropout: float = 0.0,
) -> keras.Model:
    """MobileNet v1: 13 depthwise separable convolutions.

    The first convolution halves the image, unless the image is small (under 64 pixels). The only
    dense layer is the last one.

    Args:
        input_shape: Height, width and channels of an image.
        num_classes: Number of logits.
        width: Multiplier of the channels of every convolution, the paper's width multiplier.
        dropout: Share of features dropped before the dense layer in training; 0 adds no layer.

    Returns:
        A Functional Keras model from pixel values (0 to 255) to float32 logits.

    Reference:
        - [Howard et al., 2017](https://arxiv.org/abs/1704.04861)
    """
    inputs = keras.Input(input_shape, name="image")
    strides = 1 if is_small(input_shape) else 2
    x = convolution(pixels(inputs), scaled(32, width), 3, "stem", strides=strides)
    for block, (channels, strides) in enumerate(_BLOCKS, start=1):
        name = f"block{block}"
        x = layers.DepthwiseConv2D(
            3,
            strides,
            padding="same",
            use_bias=False,
            # He initialisation for the 3x3 inputs that a unit reads: Keras would count the inputs
            # of all channels.
            depthwise_initializer=keras.initializers.VarianceScaling(2.0 * x.shape[-1]),
            name=f"{name}_depthwise",
        )(x)
        x = batch_normalization(x, f"{name}_depthwise_bn")
        x = layers.ReLU(name=f"{name}_depthwise_relu")(x)
        x = convolution(x, scaled(channels, width), 1, f"{name}_pointwise")
    x = layers.GlobalAveragePooling2D(name="average_pool")(x)
    return keras.Model(inputs, classifier(x, (), num_classes, dropout), name="mobilenet")
