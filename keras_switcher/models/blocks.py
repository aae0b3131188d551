"""Parts that the networks share: scaled sizes, normalised convolution, classifier."""

from typing import Any

from keras import KerasTensor, layers

# Below this height or width, a network made for ImageNet's 224 pixels leaves too little of an
# image.
_SMALL = 64


def scaled(size: int, width: float) -> int:
    """Returns a number of channels or units multiplied by the width, at least 1."""
    return max(1, round(size * width))


def is_small(input_shape: tuple[int, int, int]) -> bool:
    """Returns whether images are too small for a stem that immediately halves them."""
    return min(input_shape[:2]) < _SMALL


def pixels(x: KerasTensor) -> KerasTensor:
    """Rescales pixel values from [0, 255] to [-1, 1]."""
    return layers.Rescaling(1 / 127.5, offset=-1, name="rescaling")(x)


def batch_normalization(x: KerasTensor, name: str) -> KerasTensor:
    """Applies batch normalisation, with the momentum and epsilon of training on CIFAR."""
    return layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=name)(x)


def convolution(
    x: KerasTensor,
    filters: int,
    kernel_size: int,
    name: str,
    *,
    strides: int = 1,
    relu: bool = True,
    **options: Any,
) -> KerasTensor:
    """Applies a convolution (He initialisation, same padding), batch normalisation and ReLU.

    Args:
        x: Features, (batch, height, width, channels).
        filters: Number of output channels.
        kernel_size: Height and width of the kernel.
        name: Name of the convolution; the layers after it are called `<name>_bn` and
            `<name>_relu`.
        strides: Strides of the convolution.
        relu: Whether to apply ReLU.
        **options: Arguments of `Conv2D`; without `use_bias=True` there is no bias.
    """
    x = layers.Conv2D(
        filters,
        kernel_size,
        strides,
        padding="same",
        kernel_initializer="he_normal",
        name=name,
        **{"use_bias": False, **options},
    )(x)
    x = batch_normalization(x, f"{name}_bn")
    return layers.ReLU(name=f"{name}_relu")(x) if relu else x


def classifier(
    x: KerasTensor,
    units: tuple[int, ...],
    num_classes: int,
    dropout: float,
    initializer: str = "glorot_uniform",
) -> KerasTensor:
    """Applies dense layers with ReLU, each followed by dropout, and the layer of the logits.

    Args:
        x: Features, (batch, features).
        units: Units of the hidden layers; if there are none, dropout comes before the logits.
        num_classes: Number of logits.
        dropout: Share of activations dropped in training; 0 adds no layer.
        initializer: Initialiser of the hidden layers' kernels.
    """
    if not units and dropout > 0:
        x = layers.Dropout(dropout, name="dropout")(x)
    for number, size in enumerate(units, start=1):
        x = layers.Dense(
            size, activation="relu", kernel_initializer=initializer, name=f"dense{number}"
        )(x)
        if dropout > 0:
            x = layers.Dropout(dropout, name=f"dropout{number}")(x)
    # Under mixed precision, a softmax over float16 logits overflows and loses small losses.
    return layers.Dense(num_classes, dtype="float32", name="logits")(x)
