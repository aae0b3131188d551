"""Data sets by name, and their split into training, validation and test parts."""

import os
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from keras_switcher.checks import is_integer
from keras_switcher.registry import Registry

StrPath = str | os.PathLike[str]


@dataclass(frozen=True, eq=False)
class Examples:
    """A data set as its loader returns it: a training part and a test part.

    Args:
        source: Where the images come from, in human-readable form.
        x_train: uint8 images, (examples, height, width, channels).
        y_train: Integer labels, (examples,).
        x_test: Like `x_train`.
        y_test: Like `y_train`.
        num_classes: Labels are 0 to `num_classes - 1`.
        class_names: The names of the classes; if there are none, their numbers serve as names.

    Raises:
        ValueError: If `source` or `num_classes` is of another type, or there is another number of
            names.
    """

    source: str
    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    num_classes: int
    class_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        names = tuple(map(str, self.class_names))
        if not isinstance(self.source, str) or not is_integer(self.num_classes):
            raise ValueError(
                "Expected `source` to be a text and `num_classes` an integer. "
                f"Received: source={self.source!r}, num_classes={self.num_classes!r}"
            )
        if len(names) not in (0, self.num_classes):
            raise ValueError(
                f"Expected a name for each of the {self.num_classes} classes, or none. "
                f"Received: {len(names)} names, {names}"
            )
        # The class is frozen.
        object.__setattr__(self, "class_names", names)
        for part in ("x_train", "y_train", "x_test", "y_test"):
            object.__setattr__(self, part, np.asarray(getattr(self, part)))


@dataclass(frozen=True, eq=False)
class ImageData:
    """A data set ready for training: uint8 images, int32 labels, three disjoint parts.

    Args:
        name: The name that was passed to `load`.
        source: Where the images come from, in human-readable form; a run's `dataset_source`.
        x_train: Training images, (examples, height, width, channels).
        y_train: Training labels, (examples,).
        x_validation: Validation images, taken out of the training data.
        y_validation: Validation labels.
        x_test: Test images.
        y_test: Test labels.
        num_classes: Labels are 0 to `num_classes - 1`.
        class_names: The names of the classes, in the order of the labels.
    """

    name: str
    source: str
    x_train: np.ndarray
    y_train: np.ndarray
    x_validation: np.ndarray
    y_validation: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    num_classes: int
    class_names: tuple[str, ...]

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of an image."""
        height, width, channels = self.x_train.shape[1:]
        return height, width, channels


Loader = Callable[[StrPath | None], Examples]

DATASETS: Registry[Loader] = Registry("data set", "@keras_switcher.data.DATASETS.register('name')")
"""The data sets by name: functions of `data_dir` that return `Examples`, as a `TfdsImages` does."""


def load(
    name: str,
    data_dir: StrPath | None = None,
    limit: int | None = None,
    validation: float = 1 / 12,
) -> ImageData:
    """Loads a data set by name and splits a validation part off its training data.

    The split takes the same share of every class and depends only on the labels, so that runs with
    different seeds are compared on the same examples.

    Args:
        name: A registered name, such as `"mnist"`.
        data_dir: Folder of prepared TensorFlow Datasets, to read from and to download into.
            Defaults to the environment variable `TFDS_DATA_DIR`, then to TFDS's own default.
        limit: Uses only the first `limit` training examples, which include the validation part,
            and the first `limit` test examples; all if there are fewer.
        validation: Share of the training data for validation, in (0, 1).

    Returns:
        The data set.

    Raises:
        ValueError: If the name is unknown, or an argument or a label is out of its range.
        FileNotFoundError: If the data is missing and can't be downloaded, and either `data_dir`
            was given, `TFDS_DATA_DIR` names no folder, or there is no data set to fall back to.
    """
    loader = DATASETS.get(name)
    if limit is not None and (not is_integer(limit) or limit < 1):
        raise ValueError(f"`limit` must be a positive integer or None. Received: limit={limit!r}")
    if not 0 < validation < 1:
        raise ValueError(
            "`validation` must be a share of the training data, in (0, 1). "
            f"Received: validation={validation!r}"
        )
    examples = loader(data_dir)
    if not isinstance(examples, Examples):
        raise ValueError(
            f"Expected the loader of the data set {name!r} to return keras_switcher.data.Examples. "
            f"Received: a {type(examples).__name__}"
        )
    x_train, y_train = _checked(examples.x_train, examples.y_train, examples.num_classes, limit)
    x_test, y_test = _checked(examples.x_test, examples.y_test, examples.num_classes, limit)
    if x_test.shape[1:] != x_train.shape[1:] or len(y_test) == 0:
        raise ValueError(
            f"Expected test images of the shape of the training images, {x_train.shape[1:]}. "
            f"Received: {len(x_test)} test images of shape {x_test.shape[1:]}"
        )
    if len(y_train) < 2:
        raise ValueError(
            "Training and validation need at least one example each. "
            f"Received: {len(y_train)} training example(s), limit={limit!r}"
        )
    count = min(max(1, round(validation * len(y_train))), len(y_train) - 1)
    chosen = stratified(y_train, count)
    return ImageData(
        name=name,
        source=examples.source,
        x_train=x_train[~chosen],
        y_train=y_train[~chosen],
        x_validation=x_train[chosen],
        y_validation=y_train[chosen],
        x_test=x_test,
        y_test=y_test,
        num_classes=examples.num_classes,
        class_names=examples.class_names or tuple(map(str, range(examples.num_classes))),
    )


def check_labels(labels: np.ndarray, num_classes: int) -> None:
    """Checks that labels are class numbers.

    Args:
        labels: The labels, (examples,).
        num_classes: Labels must be 0 to `num_classes - 1`.

    Raises:
        ValueError: If one is not.
    """
    labels = np.asarray(labels)
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            "Labels must be integers in one dimension. "
            f"Received: labels of shape {labels.shape} and dtype {labels.dtype}"
        )
    outside = (labels < 0) | (labels >= num_classes)
    if outside.any():
        first = int(np.argmax(outside))
        raise ValueError(
            f"Labels must be in [0, {num_classes}) for {num_classes} classes; "
            f"{int(outside.sum())} of {len(labels)} are not. "
            f"Received: label {labels[first]} at example {first}"
        )


def _checked(
    x: np.ndarray, y: np.ndarray, num_classes: int, limit: int | None
) -> tuple[np.ndarray, np.ndarray]:
    if x.ndim != 4 or x.dtype != np.uint8 or len(x) != len(y):
        raise ValueError(
            "A data set needs uint8 images (examples, height, width, channels) and one label per "
            f"image. Received: images of shape {x.shape} and dtype {x.dtype}, {len(y)} labels"
        )
    check_labels(y, num_classes)
    return x[:limit], y[:limit].astype(np.int32)


def stratified(labels: np.ndarray, count: int) -> np.ndarray:
    """Chooses examples at random, with the same share (to within one example) of every class.

    Returns:
        Boolean array of which examples are chosen; exactly `count` are true.
    """
    shuffled = permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    chosen = np.zeros(len(labels), bool)
    chosen[by_class[(2 * np.arange(count) + 1) * len(labels) // (2 * count)]] = True
    return chosen


def permutation(size: int) -> np.ndarray:
    """Returns 0 to `size - 1` in an order that is the same in every process and version."""
    # RandomState gives the same numbers in every version of NumPy; those of default_rng may change.
    return np.random.RandomState(0).permutation(size)
