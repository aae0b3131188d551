"""Models by name: plain Keras models of ordinary layers."""

import inspect
from collections.abc import Sequence
from typing import Protocol

import keras

from keras_switcher.checks import is_integer, is_number
from keras_switcher.models.lenet import lenet, lenet300
from keras_switcher.models.mobilenet import mobilenet
from keras_switcher.models.resnet import resnet18, resnet34
from keras_switcher.models.vgg import vgg16
from keras_switcher.registry import Registry

__all__ = ["MODELS", "ModelBuilder", "build"]


class ModelBuilder(Protocol):
    """An entry of `MODELS`: a function that builds a model that outputs logits."""

    def __call__(
        self,
        input_shape: tuple[int, int, int],
        num_classes: int,
        *,
        width: float,
        dropout: float,
    ) -> keras.Model:
        """Builds the model from arguments that `build` has checked.

        A builder may also take `fc_units`.
        """


MODELS: Registry[ModelBuilder] = Registry("model", "@keras_switcher.models.MODELS.register('name')")
"""The networks by name: each is a `ModelBuilder`."""

MODELS.register("lenet")(lenet)
MODELS.register("lenet300")(lenet300)
MODELS.register("resnet18")(resnet18)
MODELS.register("resnet34")(resnet34)
MODELS.register("vgg16")(vgg16)
MODELS.register("mobilenet")(mobilenet)


def build(
    name: str,
    input_shape: Sequence[int],
    num_classes: int,
    width: float = 1.0,
    dropout: float = 0.0,
    fc_units: int | None = None,
) -> keras.Model:
    """Builds a model by name.

    The model takes images with pixel values from 0 to 255 (its first layer rescales them) and
    returns float32 logits, whatever the dtype policy. `keras_switcher.switch` replaces its dense
    layers with switched ones.

    Args:
        name: A registered name, such as `"lenet"`.
        input_shape: Height, width and channels of an image.
        num_classes: Number of logits.
        width: Multiplier of the channels and units of every hidden layer.
        dropout: Share of activations dropped between the dense layers in training; 0 adds no
            dropout layer.
        fc_units: Units of each dense hidden layer at width 1, for a model whose builder takes this
            argument, such as `"vgg16"`; `None` for the model's default.

    Returns:
        A Functional Keras model.

    Raises:
        ValueError: If the name is unknown, or an argument is out of its range or not taken by this
            model.

    Example:
        ```python
        model = build("lenet300", input_shape=(28, 28, 1), num_classes=10)
        ```
    """
    builder = MODELS.get(name)
    try:
        shape = tuple(input_shape)
    except TypeError:
        shape = ()
    if len(shape) != 3 or any(not is_integer(size) or size < 1 for size in shape):
        raise ValueError(
            "`input_shape` must be three positive integers: height, width, channels. "
            f"Received: input_shape={input_shape!r}"
        )
    if not is_integer(num_classes) or num_classes < 2:
        raise ValueError(
            f"`num_classes` must be an integer >= 2. Received: num_classes={num_classes!r}"
        )
    if not is_number(width) or width <= 0:
        raise ValueError(f"`width` must be a number > 0. Received: width={width!r}")
    if not is_number(dropout) or not 0 <= dropout < 1:
        raise ValueError(f"`dropout` must be in [0, 1). Received: dropout={dropout!r}")
    height, breadth, channels = (int(size) for size in shape)
    options = {} if fc_units is None else {"fc_units": _checked_units(name, builder, fc_units)}
    return builder(
        (height, breadth, channels),
        int(num_classes),
        width=float(width),
        dropout=float(dropout),
        **options,
    )


def _checked_units(name: str, builder: ModelBuilder, fc_units: object) -> int:
    if not is_integer(fc_units) or fc_units < 1:
        raise ValueError(f"`fc_units` must be an integer >= 1. Received: fc_units={fc_units!r}")
    if "fc_units" not in inspect.signature(builder).parameters:
        raise ValueError(
            f"Model '{name}' has no dense hidden layers whose units could be chosen; leave "
            f"`fc_units` out. Received: fc_units={fc_units!r}"
        )
    return int(fc_units)
