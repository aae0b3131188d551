"""Small images whose pixels are their number."""

import numpy as np


def made(count, classes=4):
    """Images whose pixels are the number of the example."""
    images = np.arange(count, dtype=np.uint8).reshape(-1, 1, 1, 1) * np.ones((1, 3, 2, 1), np.uint8)
    return images, np.arange(count, dtype=np.int64) % classes


def numbers(images):
    return images[:, 0, 0, 0].tolist()


# The embedded images
