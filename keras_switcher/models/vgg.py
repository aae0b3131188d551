"""VGG with 16 weight layers."""

import keras
from keras import layers

from keras_switcher.models.blocks import classifier, convolution, pixels, scaled

_STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


def vgg16(
    input_shape: tuple[int, int, int],
    num_classes: int,
    *,
    width: float = 1.0,
    dropout: float = 0.0,
    fc_units: int = 4096,
) -> keras.Model:
    """VGG16 (configuration D) with batch normalisation after each convolution.

    Five stages of 3x3 convolutions, each followed by 2x2 max pooling (odd sizes are rounded up),
    then two dense hidden layers, which hold most of the network's weights on small images.

    Args:
        input_shape: Height, width and channels of an image.
        num_classes: Number of logits.
        width: Multiplier of the channels and units of every hidden layer.
        dropout: Share of activations dropped after each dense hidden layer in training; 0 adds no
            layer.
        fc_units: Units of each dense hidden layer at width 1.

    Returns:
        A Functional Keras model from pixel values (0 to 255) to float32 logits.

    Reference:
        - [Simonyan & Zisserman, 2015](https://arxiv.org/abs/1409.1556)
    """
    inputs = keras.Input(input_shape, name="image")
    x = pixels(inputs)
    for stage, sizes in enumerate(_STAGES, start=1):
        for number, channels in enumerate(sizes, start=1):
            # The bias has no effect before a normalisation; the published network has it.
            name = f"stage{stage}_conv{number}"
            x = convolution(x, scaled(channels, width), 3, name, use_bias=True)
        x = layers.MaxPooling2D(2, padding="same", name=f"stage{stage}_pool")(x)
    x = layers.Flatten(name="flatten")(x)
    units = (scaled(fc_units, width),) * 2
    outputs = classifier(x, units, num_classes, dropout, initializer="he_normal")
    return keras.Model(inputs, outputs, name="vgg16")
