"""The two networks of LeCun et al. on which pruning methods are compared first."""

import keras
from keras import layers

from keras_switcher.models.blocks import classifier, scaled


def lenet(
    input_shape: tuple[int, int, int],
    num_classes: int,
    *,
    width: float = 1.0,
    dropout: float = 0.0,
) -> keras.Model:
    """LeNet-5 in Caffe's form, as the pruning literature uses it.

    Two convolutions without padding (20 and 50 channels, 5x5), each with ReLU and 2x2 max
    pooling, then 500 dense units with ReLU. 431,080 parameters on 28x28x1 images of 10 classes.

    Args:
        input_shape: Height, width and channels of an image; at least 16x16.
        num_classes: Number of logits.
        width: Multiplier of the channels and units of every hidden layer.
        dropout: Share of activations dropped between the dense layers in training; 0 adds no
            dropout layer.

    Returns:
        A Functional Keras model from pixel values (0 to 255) to float32 logits.

    Raises:
        ValueError: If the images are too small for the two convolutions.

    Reference:
        - [LeCun et al., 1998](https://doi.org/10.1109/5.726791)
    """
    if min(input_shape[:2]) < 16:
        raise ValueError(
            "`lenet` needs images of at least 16x16 pixels: two 5x5 convolutions without padding, "
            f"each followed by 2x2 pooling. Received: input_shape={input_shape!r}"
        )
    inputs = keras.Input(input_shape, name="image")
    x = layers.Rescaling(1 / 255, name="rescaling")(inputs)
    x = layers.Conv2D(scaled(20, width), 5, activation="relu", name="conv1")(x)
    x = layers.MaxPooling2D(2, name="pool1")(x)
    x = layers.Conv2D(scaled(50, width), 5, activation="relu", name="conv2")(x)
    x = layers.MaxPooling2D(2, name="pool2")(x)
    x = layers.Flatten(name="flatten")(x)
    outputs = classifier(x, (scaled(500, width),), num_classes, dropout)
    return keras.Model(inputs, outputs, name="lenet")


def lenet300(
    input_shape: tuple[int, int, int],
    num_classes: int,
    *,
    width: float = 1.0,
    dropout: float = 0.0,
) -> keras.Model:
    """LeNet-300-100: two dense hidden layers of 300 and 100 units with ReLU.

    266,610 parameters on 28x28x1 images of 10 classes.

    Args:
        input_shape: Height, width and channels of an image.
        num_classes: Number of logits.
        width: Multiplier of the units of both hidden layers.
        dropout: Share of activations dropped between the dense layers in training; 0 adds no
            dropout layer.

    Returns:
        A Functional Keras model from pixel values (0 to 255) to float32 logits.

    Reference:
        - [LeCun et al., 1998](https://doi.org/10.1109/5.726791)
    """
    inputs = keras.Input(input_shape, name="image")
    x = layers.Rescaling(1 / 255, name="rescaling")(inputs)
    x = layers.Flatten(name="flatten")(x)
    outputs = classifier(x, (scaled(300, width), scaled(100, width)), num_classes, dropout)
    return keras.Model(inputs, outputs, name="lenet300")
