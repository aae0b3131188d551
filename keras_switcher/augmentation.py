"""Random changes of training images, a batch at a time, that depend on a seed alone."""

from collections.abc import Callable

import tensorflow as tf

from keras_switcher.registry import Registry

# How far an image may move, in pixels: what is usual on CIFAR.
_MARGIN = 4

Augmentation = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]

registry: Registry[Augmentation] = Registry(
    "augmentation", "@keras_switcher.augmentation.registry.register('name')"
)


@registry.register("none")
def none(images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Leave the images as they are.

    Args:
        images: Images, (batch, height, width, channels).
        seed: Two integers.

    Returns:
        The images.
    """
    return images


@registry.register("crop")
def crop(images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Pad each image with four black pixels on each side and cut its size out at random.

    Args:
        images: Images of any type, (batch, height, width, channels).
        seed: Two integers that the result depends on.

    Returns:
        Images of the same shape and type.
    """
    return _moved(images, seed, mirrored=False)


@registry.register("crop_flip")
def crop_flip(images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """As `crop`, then mirror every second image, chosen at random, left to right.

    Args:
        images: Images of any type, (batch, height, width, channels).
        seed: Two integers that the result depends on.

    Returns:
        Images of the same shape and type.

    Reference:
        [He et al., 2016](https://arxiv.org/abs/1512.03385), section 4.2.
    """
    return _moved(images, seed, mirrored=True)


def _moved(images: tf.Tensor, seed: tf.Tensor, *, mirrored: bool) -> tf.Tensor:
    batch, height, width = tf.unstack(tf.shape(images)[:3])
    draws = tf.random.stateless_uniform((3, batch, 1), seed)
    down, right = tf.unstack(tf.cast(draws[:2] * (2 * _MARGIN + 1), tf.int32))
    rows = down + tf.range(height)
    columns = right + tf.range(width)
    if mirrored:
        columns = tf.where(draws[2] < 0.5, tf.reverse(columns, [1]), columns)
    margins = [[0, 0], [_MARGIN, _MARGIN], [_MARGIN, _MARGIN], [0, 0]]
    padded = tf.pad(images, margins)
    moved = tf.gather(tf.gather(padded, rows, batch_dims=1), columns, axis=2, batch_dims=1)
    return tf.ensure_shape(moved, images.shape)
